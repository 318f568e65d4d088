//! The `results` command.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::{Parser, ValueEnum};
use cli_kit::{errln, outln};

use crate::{
    Found, LeftOut, Run, Summary, TableFormat, expressions_frame, plot, published, read_runs, report,
    runs_frame, write_csv, write_parquet,
};

/// Tables of runs: means over seeds, differences to a baseline.
#[derive(Debug, Parser)]
#[command(name = "results")]
struct Cli {
    /// Run folders, or folders of runs
    #[arg(long, default_value = "runs/*", value_name = "GLOB")]
    runs: PathBuf,
    /// What to group runs by: row, seed, or config keys, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "row")]
    group_by: Vec<String>,
    /// Splits, separated by commas [default: all]
    #[arg(long, value_delimiter = ',')]
    split: Vec<String>,
    /// The group that the others are compared with [default: the ablation's]
    #[arg(long)]
    baseline: Option<String>,
    /// Format of the table; csv and parquet contain every run, split and group, and need --out
    #[arg(long, default_value = "table")]
    format: OutputFormat,
    /// File to write [default: standard output]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Add tables by group of expressions: flavour, number of distractors, words of place
    #[arg(long)]
    by_group: bool,
    /// Also write every expression of every run as Parquet
    #[arg(long, value_name = "FILE")]
    expressions: Option<PathBuf>,
    /// Also write one HTML file with tables, plots and pictures
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Also draw the differences to the baseline with their intervals: a PNG file, and an SVG file beside it
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Folder of the data sets, for the report's pictures
    #[arg(long, default_value = command_kit::DEFAULT_DATA_ROOT)]
    data_root: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OutputFormat {
    Table,
    Md,
    Tex,
    Csv,
    Parquet,
}

/// Runs the `results` command.
///
/// - args: what follows `results` on the command line
///
/// # Errors
/// When there are no runs, or a file cannot be read or written.
pub fn run(args: &[OsString]) -> Result<()> {
    run_parsed(&command_kit::parse(std::iter::once("results".into()).chain(args.iter().cloned())))
}

fn run_parsed(cli: &Cli) -> Result<()> {
    check_outputs(cli)?;
    let Found { runs, plan, problems } = read_runs(&cli.runs)?;
    for LeftOut { run, what } in &problems {
        errln!("left out: {}: {what}", run.display());
    }
    if runs.is_empty() {
        bail!("{}: there is no finished run", cli.runs.display());
    }
    let known: BTreeSet<&String> = runs.iter().flat_map(|run| run.splits.keys()).collect();
    let splits: Vec<String> = match cli.split.is_empty() {
        true => known.into_iter().filter(|split| !split.contains(", ")).cloned().collect(),
        false => cli.split.clone(),
    };
    if splits.is_empty() {
        bail!(
            "{}: its runs were evaluated on no split: their data sets have none but `train`",
            cli.runs.display()
        );
    }
    let with_groups = cli.by_group || cli.report.is_some();
    let mut summaries = Vec::new();
    for split in &splits {
        let baseline = cli.baseline.as_deref();
        summaries.push(Summary::new(&runs, plan.as_ref(), split, &cli.group_by, baseline, with_groups)?);
    }
    if let Some(path) = &cli.expressions {
        write_parquet(path, &mut expressions_frame(&runs)?)?;
    }
    // All decisions are made on the validation split, so it comes first.
    summaries.sort_by_key(|summary| !run_files::is_val(&summary.split));
    if let Some(path) = &cli.plot {
        plot(path, &summaries)?;
        errln!("{}", path.display());
    }
    if let Some(path) = &cli.report {
        let title = plan
            .as_ref()
            .map_or_else(|| cli.runs.display().to_string(), |plan| format!("ablation {}", plan.name));
        report(path, &title, &summaries, &runs, &problems, &cli.data_root)?;
        errln!("{}", path.display());
    }
    let format = match cli.format {
        OutputFormat::Csv | OutputFormat::Parquet => {
            let Some(out) = &cli.out else { bail!(NEEDS_FILE) };
            let mut frame = runs_frame(&runs)?;
            match cli.format {
                OutputFormat::Csv => write_csv(out, &mut frame)?,
                _ => write_parquet(out, &mut frame)?,
            }
            return Ok(());
        }
        OutputFormat::Table => TableFormat::Text,
        OutputFormat::Md => TableFormat::Markdown,
        OutputFormat::Tex => TableFormat::Latex,
    };
    let groups = |summary: &Summary| cli.by_group.then(|| summary.format_groups(format));
    let tables = summaries.iter().flat_map(|summary| [Some(summary.format(format)), groups(summary)]);
    let mut text = tables.flatten().collect::<Vec<_>>().join("\n\n");
    if format == TableFormat::Text && summaries.iter().any(|summary| !summary.best.is_empty()) {
        text.push_str("\n* better than every other row: the 95 % interval of each difference excludes 0");
    }
    let notes = summaries.iter().filter_map(Summary::power).chain(uneven(&runs, &splits));
    let notes = notes.chain(without_baseline(&summaries)).chain(with_mixed_groups(&summaries));
    for note in notes.chain(comparisons(&runs, &splits)) {
        text.push_str(&format!("\n{}", format.escape(&note)));
    }
    match &cli.out {
        Some(out) => whole_file::write(out, format!("{text}\n").as_bytes())?,
        None => outln!("{text}"),
    }
    Ok(())
}

const NEEDS_FILE: &str = "--format csv and parquet need --out FILE";

/// Checks the files to write, before any is written.
fn check_outputs(cli: &Cli) -> Result<()> {
    // A PNG and an SVG.
    let plots = cli.plot.iter().flat_map(|plot| [plot.with_extension("png"), plot.with_extension("svg")]);
    let files = [&cli.out, &cli.expressions, &cli.report].into_iter().flatten().cloned();
    let mut seen = BTreeSet::new();
    for file in files.chain(plots) {
        let absolute: PathBuf = std::path::absolute(&file)?.components().collect();
        ensure!(
            seen.insert(absolute),
            "{}: --out, --expressions, --report and --plot must name different files",
            file.display()
        );
    }
    let needs_file = matches!(cli.format, OutputFormat::Csv | OutputFormat::Parquet);
    ensure!(!needs_file || cli.out.is_some(), NEEDS_FILE);
    if let Some(plot) = &cli.plot {
        let ending = plot.extension().and_then(|ending| ending.to_str());
        ensure!(
            ending == Some("png"),
            "--plot {}: it must end in .png; an SVG file is written beside it",
            plot.display()
        );
    }
    Ok(())
}

/// Says how to get differences where the runs of several studies leave no baseline.
fn without_baseline(summaries: &[Summary]) -> Option<String> {
    let lacks = summaries.iter().all(|summary| summary.baseline.is_none() && summary.lines.len() > 1);
    lacks.then(|| {
        "note: there are no differences without a baseline; name a row with --baseline, in full".to_owned()
    })
}

/// Says why groups with several runs of one seed have no differences.
fn with_mixed_groups(summaries: &[Summary]) -> Option<String> {
    let mixed: BTreeSet<String> =
        summaries.iter().flat_map(|summary| &summary.mixed).map(|group| format!("`{group}`")).collect();
    let names = mixed.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    (!mixed.is_empty()).then(|| {
        format!("note: {names}: several runs of one seed, so no differences to other groups; add keys to --group-by")
    })
}

/// Splits on which the runs were evaluated with different numbers of expressions.
fn uneven(runs: &[Run], splits: &[String]) -> Vec<String> {
    let note = |split: &String| {
        let counts: BTreeSet<_> = runs
            .iter()
            .filter_map(|run| Some(run.splits.get(split)?.all.segmentation.n_expressions))
            .collect();
        let (least, most) = (counts.first()?, counts.last()?);
        (least < most).then(|| {
            format!("note: {split}: runs were evaluated on {least} to {most} expressions, so that their rows cannot be compared")
        })
    };
    splits.iter().filter_map(note).collect()
}

/// Published figures on the splits of runs that evaluate on one data set.
fn comparisons(runs: &[Run], splits: &[String]) -> Vec<String> {
    let lists = runs.iter().map(Run::datasets).filter(|names| names.len() == 1);
    let datasets: BTreeSet<&str> = lists.flatten().collect();
    let mut notes = Vec::new();
    for dataset in datasets {
        for split in splits {
            let figures = published::on(dataset, split);
            if !figures.is_empty() {
                let figures: Vec<String> =
                    figures.into_iter().map(|(model, miou)| format!("{model} {miou:.2}")).collect();
                notes.push(format!("published mIoU on {dataset} {split}: {}", figures.join(", ")));
            }
        }
    }
    notes
}
