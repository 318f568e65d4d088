//! The `data` commands. They need no libtorch, so they are a small program of their own; the `talent` program
//! offers them too.

mod bench;
mod import;
mod list;
pub mod panics;
pub mod predictions;
pub mod progress;
pub mod score;
mod show;
mod stats;
mod table;
mod verify;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use cli_kit::{errln, outln};
use refcoco::Dataset;
use refcoco::refshapes::{self, Settings};

use crate::bench::BenchArgs;
use crate::import::ImportArgs;
use crate::list::ListArgs;
use crate::progress::Progress;
use crate::score::ScoreArgs;
use crate::show::ShowArgs;
use crate::stats::StatsArgs;
use crate::verify::VerifyArgs;

pub use table::{metric_or_dash, metrics_table};

/// Where data sets are looked for unless told otherwise.
pub const DEFAULT_DATA_ROOT: &str = "datasets";

#[derive(Debug, Parser)]
#[command(name = "data", about = "Look at data sets")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Which data sets are there
    List(ListArgs),
    /// What a data set holds, per split
    Stats(StatsArgs),
    /// Check every ref, mask and image of a data set
    Verify(VerifyArgs),
    /// Draw a ref, or all refs of an image
    Show(ShowArgs),
    /// Generate RefShapes
    Synth(SynthArgs),
    /// Convert Hugging Face parquet files into a folder of own data
    Import(ImportArgs),
    /// Metrics of a file of predicted masks
    Score(ScoreArgs),
    /// Time the making of training samples, stage by stage
    Bench(BenchArgs),
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

/// A program's arguments. Where they ask for help or are wrong, the program ends here.
pub fn parse<C: Parser>(args: impl IntoIterator<Item = OsString>) -> C {
    C::try_parse_from(args).unwrap_or_else(|error| {
        if !error.use_stderr() {
            error.exit();
        }
        // Arguments are shown, so this goes the way of everything that may hold control characters.
        errln!("{}", error.render().to_string().trim_end());
        std::process::exit(error.exit_code())
    })
}

/// How a program ends: with the code its work gives, or with code 1 after one line on standard error that holds the
/// error and its causes.
pub fn conclude(result: Result<std::process::ExitCode>) -> std::process::ExitCode {
    let finished = result.and_then(|code| Ok(cli_kit::finish_output().map(|()| code)?));
    finished.unwrap_or_else(|error| {
        errln!("error: {}", one_line(&error));
        std::process::ExitCode::FAILURE
    })
}

/// An error and its causes. A cause that a message repeats already is left out.
pub fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !line.contains(&cause) {
            if !line.is_empty() {
                line.push_str(": ");
            }
            line.push_str(&cause);
        }
    }
    line
}

/// Runs a `data` command.
///
/// - args: what follows `data` on the command line
///
/// # Errors
/// What the command fails with.
pub fn run(args: &[OsString]) -> Result<()> {
    refcoco::check_memory_rule()?;
    let cli: Cli = parse(std::iter::once("data".into()).chain(args.iter().cloned()));
    match cli.command {
        Command::List(args) => list::list(&args),
        Command::Stats(args) => stats::stats(&args),
        Command::Verify(args) => verify::verify(&args),
        Command::Show(args) => show::show(&args),
        Command::Synth(args) => synth(&args),
        Command::Import(args) => import::import(&args),
        Command::Score(args) => score::score(&args),
        Command::Bench(args) => bench::bench(&args),
    }
}

/// Opens a data set. One that is generated, such as RefShapes, is generated first if it is not there.
///
/// # Errors
/// As [`Dataset::open`], and when a generated file cannot be written.
pub fn open(name: &str, data_root: &Path) -> Result<Dataset> {
    ensure_generated(name, data_root)?;
    Ok(Dataset::open(name, data_root)?)
}

fn ensure_generated(name: &str, data_root: &Path) -> Result<()> {
    let progress = std::sync::Mutex::new(None);
    Ok(refshapes::ensure(name, data_root, |_, total| {
        if let Ok(mut progress) = progress.lock() {
            progress
                .get_or_insert_with(|| Progress::new(&format!("generating {name}"), total as u64, 0))
                .advance(1, "");
        }
    })?)
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

#[cfg(test)]
mod tests {
    #[test]
    fn an_error_is_one_line_that_says_everything_once() {
        let cause = anyhow::anyhow!("line 1 column 23");
        let error = cause.context("a.json: line 1 column 23").context("data set `x`");
        assert_eq!(super::one_line(&error), "data set `x`: a.json: line 1 column 23");
    }
}
