//! `predict`: segments expressions in images of the user.

mod answer;
mod load;
mod many;
mod one;
mod output;
mod request;
mod write;

use std::path::PathBuf;

use anyhow::{Result, ensure};

pub(crate) use self::answer::{Reading, describe};
use self::request::Request;
use crate::checkpoint::checkpoint_argument;
use crate::experiment::{Machine, StoredModel};

/// Arguments of `predict`.
#[derive(Debug, clap::Args)]
pub(crate) struct PredictArgs {
    /// Checkpoint of a trained model, or exported folder, or run folder
    #[arg(long, value_parser = checkpoint_argument())]
    checkpoint: PathBuf,
    /// Image file, folder of images, or pattern such as 'photos/**/*.jpg'
    #[arg(long, value_name = "FILE|DIR|GLOB")]
    image: PathBuf,
    /// Referring expressions; each is asked of every image
    #[arg(long, num_args = 1.., required_unless_present = "queries", conflicts_with = "queries")]
    text: Vec<String>,
    /// CSV or JSONL file with columns image and expression, if wanted ref_id and sent_id; images are named relative to the folder
    /// --image
    #[arg(long, value_name = "FILE")]
    queries: Option<PathBuf>,
    /// Folder for predictions.jsonl; for one image and one --text, for mask.png, overlay.png and prediction.json
    #[arg(long)]
    out: PathBuf,
    /// Also write every mask to OUT/masks
    #[arg(long)]
    masks: bool,
    /// Also write every image with its mask to OUT/overlays
    #[arg(long)]
    overlays: bool,
    /// Stop at an image that cannot be read, or not to its end, instead of leaving it out
    #[arg(long)]
    strict: bool,
    /// Expressions in a batch [default: eval.batch_size of the model's config]
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// Print prediction.json, or a summary of many predictions, to standard output
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    stored: StoredModel,
    #[command(flatten)]
    machine: Machine,
}

pub(crate) fn predict(args: &PredictArgs) -> Result<()> {
    let out = args.out.display();
    ensure!(args.out.is_dir() || !args.out.exists(), "--out {out}: it is a file; name a folder");
    match request::request(args)? {
        Request::One { image, text } => one::predict(args, &image, &text),
        Request::Many(pictures) => many::predict(args, pictures),
    }
}
