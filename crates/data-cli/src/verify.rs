use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use refcoco::{Descriptor, Problem, Verification};
use serde_json::json;

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Data set, such as refcoco
    #[arg(long)]
    dataset: String,
    /// Folder of the data sets
    #[arg(long, default_value = crate::DEFAULT_DATA_ROOT)]
    data_root: PathBuf,
    /// Take a set that is not complete for an error
    #[arg(long)]
    strict_counts: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) fn verify(args: &VerifyArgs) -> Result<()> {
    let descriptor = Descriptor::named(&args.dataset)?;
    let expected = descriptor.expected_refs.clone();
    if args.dataset == "refshapes" {
        crate::ensure_refshapes(&args.data_root)?;
    }
    // Hidden where standard error is no terminal.
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("images {bar:30} {pos}/{len}  {per_sec}  {eta} left") {
        bar.set_style(style);
    }
    let found = refcoco::verify(descriptor, &args.data_root, |_, total| {
        bar.set_length(total as u64);
        bar.inc(1);
    });
    bar.finish_and_clear();
    let mut found = found?;
    if found.complete == Some(false) {
        let what = format!("refs per split {:?}, published are {expected:?}", found.splits);
        let problem = Problem { record: "counts".into(), what };
        if args.strict_counts { &mut found.errors } else { &mut found.warnings }.push(problem);
    }
    report(args, &found)?;
    match found.errors.len() {
        0 => Ok(()),
        n => bail!("{}: {n} {}", args.dataset, if n == 1 { "error" } else { "errors" }),
    }
}

fn report(args: &VerifyArgs, found: &Verification) -> Result<()> {
    if args.json {
        let mut report = serde_json::to_value(found)?;
        report["dataset"] = json!(args.dataset);
        println!("{report}");
        return Ok(());
    }
    for (title, problems) in [("error", &found.errors), ("warning", &found.warnings)] {
        for Problem { record, what } in problems {
            println!("{title}: {record}: {what}");
        }
    }
    let state = match found.complete {
        Some(true) => "complete",
        Some(false) => "partial",
        None => "no published counts to compare with",
    };
    println!(
        "{}: {} refs, {} masks, {} images checked; {} errors, {} warnings; {state}",
        args.dataset,
        found.refs,
        found.masks,
        found.images,
        found.errors.len(),
        found.warnings.len()
    );
    Ok(())
}
