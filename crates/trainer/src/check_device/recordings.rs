//! Compares the network on the device with recordings of the official code.

use std::path::PathBuf;

use anyhow::{Context, Result};
use cli_kit::errln;
use parity::{Options, Part, Verdict};

use super::part::{Outcome, Setting, finite};

pub(super) fn forward(setting: &Setting) -> Result<Outcome> {
    compare(setting, Part::Forward)
}

pub(super) fn losses(setting: &Setting) -> Result<Outcome> {
    compare(setting, Part::Losses)
}

pub(super) fn gradients(setting: &Setting) -> Result<Outcome> {
    compare(setting, Part::Gradients)
}

pub(super) fn updates(setting: &Setting) -> Result<Outcome> {
    compare(setting, Part::Updates)
}

pub(super) fn full_size(setting: &Setting) -> Result<Outcome> {
    compare(setting, Part::FullSize)
}

/// Folder of the recordings: that of `--golden`, else of the checkout around the current folder, else of the pack.
fn folder(setting: &Setting) -> Result<PathBuf> {
    if let Some(given) = &setting.golden {
        return Ok(given.clone());
    }
    let here = std::env::current_dir().context("the current folder")?;
    let mut places: Vec<PathBuf> =
        here.ancestors().map(|folder| folder.join("crates/parity/tests/golden")).collect();
    places.extend(std::env::var_os("TALENT_PACK").map(|pack| PathBuf::from(pack).join("golden")));
    let found = places.into_iter().find(|place| place.join("config.json").is_file());
    found.context("there are no recordings here; name a folder of them with --golden")
}

fn compare(setting: &Setting, part: Part) -> Result<Outcome> {
    let golden = folder(setting)?;
    let options = Options { golden, data_root: None, skip_full: false, device: setting.device, part };
    let report = parity::run(&options, |case| errln!("{case}"))?;
    let mut outcome = Outcome::default();
    outcome.figure("cases", report.cases.len());
    outcome.require(!report.cases.is_empty(), || "the folder holds no such recordings".into());
    outcome.figure("tensors", report.cases.iter().map(|case| case.comparisons.len()).sum::<usize>());
    let closest = report.cases.iter().filter_map(|case| Some((&case.name, case.worst()?)));
    if let Some((case, closest)) = closest.max_by(|(_, a), (_, b)| a.used.total_cmp(&b.used)) {
        outcome.figure("closest", format!("{case}: {}", closest.name));
        outcome.figure("share_of_bound_used", finite(closest.used));
    }
    for case in report.cases.iter().filter(|case| case.verdict != Verdict::Pass) {
        let failed = case.comparisons.iter().filter(|comparison| !comparison.passes());
        let mut what: Vec<String> = case.notes.clone();
        what.extend(failed.map(|comparison| {
            format!("{}: error {:.2e}, allowed {}", comparison.name, comparison.max_abs, comparison.tolerance)
        }));
        let n = what.len();
        what.truncate(3);
        outcome.require(false, || format!("{} ({n} differences): {}", case.name, what.join(", ")));
    }
    Ok(outcome)
}
