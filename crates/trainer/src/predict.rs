//! `predict`: segments one expression in an image of the user.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use cli_kit::{errln, outln};
use figures::{Canvas, overlay};
use refcoco::{Mask, read_image_to_work_on};
use serde_json::{Value, json};

use crate::checkpoint::is_same;
use crate::encoder_input::about_one_image;
use crate::evaluate::{probabilities, values};
use crate::experiment::{Experiment, Machine, StoredModel};

/// Arguments of `predict`.
#[derive(Debug, clap::Args)]
pub(crate) struct PredictArgs {
    /// Checkpoint of a trained model
    #[arg(long)]
    checkpoint: PathBuf,
    /// JPEG or PNG image
    #[arg(long)]
    image: PathBuf,
    /// Referring expression
    #[arg(long)]
    text: String,
    /// Folder for mask.png, overlay.png and prediction.json
    #[arg(long)]
    out: PathBuf,
    /// Print prediction.json to standard output
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    stored: StoredModel,
    #[command(flatten)]
    machine: Machine,
}

/// Bytes per pixel of the image that prediction needs: probabilities and mask, then the mask as a picture.
const WORK: u64 = 5;
const COLOUR: [u8; 3] = [230, 60, 40];

pub(crate) fn predict(args: &PredictArgs) -> Result<()> {
    ensure!(!args.text.trim().is_empty(), "--text: the expression is empty");
    for name in ["mask.png", "overlay.png", "prediction.json"] {
        let file = args.out.join(name);
        ensure!(
            !is_same(&file, &args.image) && !is_same(&file, &args.checkpoint),
            "--out: {} is what is read; choose another folder",
            file.display()
        );
    }
    let image = read_image_to_work_on(&args.image, WORK)?;
    let device = args.machine.set_up()?;
    let (cfg, meta) = args.stored.open(&args.checkpoint)?;
    let experiment = Experiment::with_datasets(cfg, device, Vec::new())?;
    args.stored.fill(&experiment.model, &args.checkpoint, meta.as_ref())?;

    let (shape, tokenizer) = (experiment.shape(), &*experiment.tokenizer);
    if tokenizer.encode(&args.text)?.len() > shape.word_len {
        errln!("note: the expression is longer than the model's {} tokens and was cut", shape.word_len);
    }
    let (letterbox, batch) = about_one_image(&image, &[&args.text], tokenizer, shape, device)?;
    let square = values(probabilities(&experiment, &batch, experiment.cfg.train.precision)?)?;
    let map = letterbox.map_to_image(&square);
    let threshold = experiment.cfg.eval.threshold;
    let mask = Mask::above(image.width, image.height, &map, threshold);

    let prediction = describe(args, &mask, &map, threshold);
    // Freed early: each of these buffers may take a gigabyte.
    drop(map);
    std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let picture = Canvas::from_rgb(image.width, image.height, image.data);
    overlay(picture, &mask.data, COLOUR).save(&args.out.join("overlay.png"))?;
    let grey: Vec<u8> = mask.data.iter().flat_map(|&pixel| [pixel * 255; 3]).collect();
    Canvas::from_rgb(mask.width, mask.height, grey).save(&args.out.join("mask.png"))?;
    whole_file::write(&args.out.join("prediction.json"), format!("{prediction:#}\n").as_bytes())?;
    if args.json {
        outln!("{prediction}");
    } else {
        let percent = 100.0 * mask.area() as f64 / (mask.width * mask.height) as f64;
        outln!("\"{}\": {percent:.1} % of the image; written to {}", args.text, show(&args.out));
    }
    Ok(())
}

fn show(path: &Path) -> String {
    path.display().to_string()
}

fn describe(args: &PredictArgs, mask: &Mask, map: &[f32], threshold: f32) -> Value {
    let highest = map.iter().copied().fold(0.0_f32, f32::max);
    json!({
        "image": show(&args.image),
        "expression": args.text,
        "segmentation": {"size": [mask.height, mask.width], "counts": mask.to_rle_string()},
        "area": mask.area(),
        "threshold": threshold,
        "highest_probability": highest,
    })
}
