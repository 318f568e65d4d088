use std::path::PathBuf;
use std::sync::Mutex;

use anyhow::{Result, bail};
use clap::Args;
use cli_kit::outln;
use refcoco::training_mix::{leaked_images, training_mix};
use refcoco::{Dataset, Descriptor, Problem, Verification};
use serde::Serialize;
use serde_json::json;

use command_kit::Progress;

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Data set, such as refcoco; several, separated by commas, are also checked as a training mix
    #[arg(long, value_delimiter = ',', required = true)]
    dataset: Vec<String>,
    /// Folder of the data sets
    #[arg(long, default_value = command_kit::DEFAULT_DATA_ROOT)]
    data_root: PathBuf,
    /// Treat an incomplete data set as an error
    #[arg(long)]
    strict_counts: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Report on training on several data sets together.
#[derive(Debug, Serialize)]
struct MixReport {
    datasets: Vec<String>,
    /// Number of refs to train on.
    refs: usize,
    /// For each data set, training refs left out because an evaluation split of one of the sets has their picture.
    left_out: Vec<usize>,
    /// Pictures of the mix that are nevertheless in an evaluation split.
    leaked: Vec<String>,
}

pub(crate) fn verify(args: &VerifyArgs) -> Result<()> {
    let mut n_errors = 0;
    let mut reports = Vec::new();
    for name in &args.dataset {
        let found = verify_one(args, name)?;
        n_errors += found.errors.len();
        if !args.json {
            print(name, &found);
        }
        let mut report = serde_json::to_value(found)?;
        report["dataset"] = json!(name);
        reports.push(report);
    }
    let mix = match args.dataset.len() {
        1 => None,
        // Errors in single records are reported already, and a mix needs data sets without errors.
        _ if n_errors > 0 => None,
        _ => Some(verify_mix(args)?),
    };
    n_errors += mix.as_ref().map_or(0, |mix| mix.leaked.len());
    if args.json {
        let document = match (reports.len(), mix) {
            (1, _) => reports.remove(0),
            (_, mix) => json!({"datasets": reports, "mix": mix}),
        };
        outln!("{document}");
    }
    match n_errors {
        0 => Ok(()),
        n => bail!("{}: {n} {}", args.dataset.join(","), if n == 1 { "error" } else { "errors" }),
    }
}

fn verify_one(args: &VerifyArgs, name: &str) -> Result<Verification> {
    let descriptor = Descriptor::find(name, &args.data_root)?;
    command_kit::tell_override(name, &args.data_root);
    let expected = descriptor.expected_refs.clone();
    command_kit::ensure_generated(name, &args.data_root)?;
    let progress: Mutex<Option<Progress>> = Mutex::new(None);
    let mut found = refcoco::verify(descriptor, &args.data_root, |_, total| {
        if let Ok(mut progress) = progress.lock() {
            let label = format!("verify {name}");
            progress.get_or_insert_with(|| Progress::new(&label, total as u64, 0)).advance(1, "images");
        }
    })?;
    if found.complete == Some(false) {
        let what = format!("refs per split {:?}, published are {expected:?}", found.splits);
        let problem = Problem { record: "counts".into(), what };
        if args.strict_counts { &mut found.errors } else { &mut found.warnings }.push(problem);
    }
    Ok(found)
}

fn verify_mix(args: &VerifyArgs) -> Result<MixReport> {
    let opened = args.dataset.iter().map(|name| Ok(Dataset::open(name, &args.data_root)?));
    let datasets = opened.collect::<Result<Vec<_>>>()?;
    let mix = training_mix(&datasets, false)?;
    let leaked = leaked_images(&datasets, &mix).into_iter().collect();
    let report =
        MixReport { datasets: args.dataset.clone(), refs: mix.refs.len(), left_out: mix.n_leaking, leaked };
    if !args.json {
        for name in &report.leaked {
            outln!("error: mix: {name} is trained and evaluated on");
        }
        let left_out = args.dataset.iter().zip(&report.left_out).map(|(name, n)| format!("{n} of {name}"));
        outln!(
            "mix of {}: {} refs to train on; left out because an evaluation split has their image: {}",
            args.dataset.join(", "),
            report.refs,
            left_out.collect::<Vec<_>>().join(", ")
        );
    }
    Ok(report)
}

fn print(name: &str, found: &Verification) {
    for (title, problems) in [("error", &found.errors), ("warning", &found.warnings)] {
        for Problem { record, what } in problems {
            outln!("{title}: {record}: {what}");
        }
    }
    let state = match found.complete {
        Some(true) => "complete",
        Some(false) => "partial",
        None => "no published counts to compare with",
    };
    outln!(
        "{name}: {} refs, {} targets, {} masks, {} images checked; {} errors, {} warnings; {state}",
        found.refs,
        found.targets,
        found.masks,
        found.images,
        found.errors.len(),
        found.warnings.len()
    );
}
