//! The `data` commands. They need no libtorch, so they are a separate small program, which `talent data` executes.

mod bench;
mod export;
mod import;
mod list;
mod show;
mod staging;
mod stats;
mod verify;

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, Parser, Subcommand};
use cli_kit::outln;
use command_kit::{DEFAULT_DATA_ROOT, ScoreArgs, parse, score};
use refcoco::refshapes::{self, Settings};

use crate::bench::BenchArgs;
use crate::export::ExportArgs;
use crate::import::ImportArgs;
use crate::list::ListArgs;
use crate::show::ShowArgs;
use crate::stats::StatsArgs;
use crate::verify::VerifyArgs;

#[derive(Debug, Parser)]
#[command(name = "data", bin_name = "talent data", about = "Look at data sets")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the data sets and whether they are complete
    List(ListArgs),
    /// Show statistics of a data set, per split
    Stats(StatsArgs),
    /// Check every ref, mask and image of a data set
    Verify(VerifyArgs),
    /// Draw a ref, or all refs of an image
    Show(ShowArgs),
    /// Generate RefShapes
    Synth(SynthArgs),
    /// Convert Parquet files, or what an annotation tool wrote, into a data set folder with refs.jsonl
    Import(ImportArgs),
    /// Write a data set as own data (refs.jsonl) or in the REFER layout
    Export(ExportArgs),
    /// Compute metrics of a file of predicted masks
    Score(ScoreArgs),
    /// Time the preparation of training samples, stage by stage
    Bench(BenchArgs),
    /// Download data sets and pretrained encoders (`cargo xtask fetch`)
    Fetch(fetch::FetchArgs),
    /// Browse data sets and compare predictions on a local web page (`cargo xtask studio` with a model tries it, too)
    Studio(studio::StudioArgs),
}

#[derive(Debug, Args)]
struct SynthArgs {
    /// Folder of the data sets
    #[arg(long, default_value = DEFAULT_DATA_ROOT)]
    data_root: PathBuf,
    /// A setting and its value, such as train_images=500; settings: seed, train_images, val_images, test_a_images,
    /// test_b_images, min_objects, max_objects, max_colours, occlusion, same_category, same_category_at_most, clutter,
    /// object_scale
    #[arg(long = "set", value_name = "KEY=VALUE", num_args = 1..)]
    settings: Vec<String>,
}

/// Runs a `data` command.
///
/// - args: what follows `data` on the command line
///
/// # Errors
/// Returns the error of the command.
pub fn run(args: &[OsString]) -> Result<()> {
    refcoco::check_memory_rule()?;
    let cli: Cli = parse(std::iter::once("data".into()).chain(args.iter().cloned()));
    dispatch(cli.command).map_err(with_advice)
}

/// The error of a data set that is not there, with the command that downloads it.
fn with_advice(error: anyhow::Error) -> anyhow::Error {
    let advice = match error.downcast_ref() {
        Some(refcoco::Error::Layout { dataset, .. }) => fetch::advice(dataset),
        _ => None,
    };
    match advice {
        Some(advice) => anyhow!("{error:#}; {advice}"),
        None => error,
    }
}

fn dispatch(command: Command) -> Result<()> {
    match command {
        Command::List(args) => list::list(&args),
        Command::Stats(args) => stats::stats(&args),
        Command::Verify(args) => verify::verify(&args),
        Command::Show(args) => show::show(&args),
        Command::Synth(args) => synth(&args),
        Command::Import(args) => import::import(&args),
        Command::Export(args) => export::export(&args),
        Command::Score(args) => score(&args),
        Command::Bench(args) => bench::bench(&args),
        Command::Fetch(args) => Ok(fetch::fetch(&args)?),
        Command::Studio(args) => studio::serve(&args, None),
    }
}

fn synth(args: &SynthArgs) -> Result<()> {
    let mut value = serde_json::to_value(Settings::default())?;
    for text in &args.settings {
        let (key, setting) =
            text.split_once('=').with_context(|| format!("--set {text}: expected key=value"))?;
        let setting: serde_json::Value =
            serde_json::from_str(setting).with_context(|| format!("--set {text}"))?;
        if value.get(key).is_none() {
            bail!("--set {text}: there is no setting `{key}`");
        }
        value[key] = setting;
    }
    let settings: Settings = serde_json::from_value(value).context("settings")?;
    if args.data_root.join("refshapes").exists() {
        bail!("{}: there is one already; remove it first", args.data_root.join("refshapes").display());
    }
    let folder = refshapes::generate(&settings, &args.data_root, |_| {})?;
    outln!("wrote {}", folder.display());
    Ok(())
}
