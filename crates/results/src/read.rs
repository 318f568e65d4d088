use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use metrics::SplitReport;
use run_files::{
    Ablation, Cell, ExpressionLine, Metrics, Record, VERSION, is_val, read_expressions, read_records,
};

use crate::{Error, io_error};

/// A finished run.
#[derive(Debug, Clone)]
pub struct Run {
    /// Folder of the run.
    pub path: PathBuf,
    /// Name in tables: the ablation's row, or the config's name.
    pub row: String,
    /// Seed of the run.
    pub seed: u64,
    /// Number of optimiser steps it was trained for.
    pub step: u64,
    /// Resolved config of the run.
    pub config: toml::Table,
    /// Reports by split.
    pub splits: BTreeMap<String, SplitReport>,
    /// Number of trained parameter values.
    pub trained_values: u64,
    /// Median time of a step in seconds.
    pub step_seconds: Option<f64>,
    /// Peak resident memory in MiB.
    pub peak_rss_mib: Option<f64>,
    /// Measurements of each expression.
    pub expressions: Vec<ExpressionLine>,
    /// Validation mIoU by step, of the first data set.
    pub val_curve: Vec<(f64, f64)>,
}

/// A run that is not in the tables, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Folder of the run.
    pub run: PathBuf,
    /// Why the run is left out.
    pub what: String,
}

/// Result of [`read_runs`].
#[derive(Debug, Clone)]
pub struct Found {
    /// Finished runs, in the order of their paths.
    pub runs: Vec<Run>,
    /// The ablation that the first of the runs belongs to.
    pub plan: Option<Ablation>,
    /// Runs that are left out.
    pub problems: Vec<LeftOut>,
}

/// Reads all runs in the folders that match a pattern and in the folders below them, in the order of their paths.
///
/// # Errors
/// When the pattern is malformed or a folder cannot be read. Unfinished runs and runs of another version are listed in
/// [`Found::problems`].
pub fn read_runs(pattern: &Path) -> Result<Found, Error> {
    let mut folders = Vec::new();
    for found in expand_pattern(pattern)? {
        if found.is_dir() {
            collect(&found, 4, &mut folders)?;
        }
    }
    folders.sort();
    folders.dedup();
    let (mut runs, mut problems) = (Vec::new(), Vec::new());
    for folder in &folders {
        match read_run(folder) {
            Ok(run) => runs.push(run),
            Err(what) => problems.push(LeftOut { run: folder.clone(), what }),
        }
    }
    rename_distinct_runs(&mut runs);
    let plan = match runs.first().map_or(Ok(None), |run| Ablation::of(&run.path)) {
        Ok(plan) => plan,
        Err(error) => {
            let what = format!("the order of the rows and the baseline: {error}");
            problems.extend(runs.first().map(|run| LeftOut { run: run.path.clone(), what }));
            None
        }
    };
    Ok(Found { runs, plan, problems })
}

/// Gives runs of one row different row names, made from their folders, unless they are repetitions that differ only in seed.
/// Repetitions in one folder stay together under its name.
fn rename_distinct_runs(runs: &mut [Run]) {
    let mut of_row: BTreeMap<String, Vec<&Run>> = BTreeMap::new();
    for run in runs.iter() {
        of_row.entry(run.row.clone()).or_default().push(run);
    }
    let mut names: BTreeMap<PathBuf, String> = BTreeMap::new();
    for (row, of_row) in of_row.iter().filter(|(_, runs)| !are_repetitions(runs)) {
        for alike in alike_in_folder(of_row) {
            for run in &alike {
                let folder = run.path.parent().filter(|_| alike.len() > 1).unwrap_or(&run.path);
                names.insert(run.path.clone(), format!("{row} ({})", folder.display()));
            }
        }
    }
    for run in runs {
        if let Some(name) = names.remove(&run.path) {
            run.row = name;
        }
    }
}

/// Whether no two of the runs have the same seed.
pub(crate) fn has_distinct_seeds(runs: &[&Run]) -> bool {
    let seeds: BTreeSet<u64> = runs.iter().map(|run| run.seed).collect();
    seeds.len() == runs.len()
}

fn are_repetitions(runs: &[&Run]) -> bool {
    has_distinct_seeds(runs) && runs.iter().all(|run| run.is_like(runs[0]))
}

/// Divides runs into repetitions in one folder. Runs of a folder that has runs of several kinds stand alone, since its name would not
/// tell them apart.
fn alike_in_folder<'a>(runs: &[&'a Run]) -> Vec<Vec<&'a Run>> {
    let mut folders: BTreeMap<Option<&Path>, Vec<&Run>> = BTreeMap::new();
    for run in runs {
        folders.entry(run.path.parent()).or_default().push(run);
    }
    let divide = |runs: Vec<&'a Run>| match are_repetitions(&runs) {
        true => vec![runs],
        false => runs.into_iter().map(|run| vec![run]).collect(),
    };
    folders.into_values().flat_map(divide).collect()
}

/// The paths that match a pattern. If a folder has exactly this name, it is taken instead: its name may contain brackets, or
/// bytes that are not UTF-8.
fn expand_pattern(pattern: &Path) -> Result<Vec<PathBuf>, Error> {
    if pattern.is_dir() {
        return Ok(vec![pattern.to_path_buf()]);
    }
    let text = pattern.to_string_lossy();
    let found =
        glob::glob(&text).map_err(|source| Error::Pattern { pattern: text.clone().into_owned(), source })?;
    let found = found.map(|found| {
        found.map_err(|error| {
            let path = error.path().to_path_buf();
            Error::Io { path, source: error.into() }
        })
    });
    found.collect()
}

/// Collects folders that hold a run, recognised by `config.toml`, the first file that a run writes.
fn collect(folder: &Path, depth: usize, folders: &mut Vec<PathBuf>) -> Result<(), Error> {
    if folder.join("config.toml").is_file() {
        folders.push(folder.to_path_buf());
        return Ok(());
    }
    if depth == 0 {
        return Ok(());
    }
    for entry in std::fs::read_dir(folder).map_err(io_error(folder))? {
        let entry = entry.map_err(io_error(folder))?;
        if entry.file_type().map_err(io_error(folder))?.is_dir() {
            collect(&entry.path(), depth - 1, folders)?;
        }
    }
    Ok(())
}

fn read_run(folder: &Path) -> Result<Run, String> {
    let said = |error: run_files::Error| error.to_string();
    let file = folder.join("config.toml");
    let mut text = String::new();
    let read = refcoco::open_regular(&file).map_err(|error| error.to_string());
    read?.read_to_string(&mut text).map_err(|error| format!("config.toml: {error}"))?;
    let config: toml::Table = text.parse().map_err(|error| format!("config.toml: {error}"))?;
    if !Metrics::file(folder).exists() {
        return Err("it is not finished: there is no metrics.json".into());
    }
    let metrics = Metrics::read(folder).map_err(said)?;
    if metrics.version.as_deref() != Some(VERSION) {
        let theirs = metrics.version.as_deref().unwrap_or("before versions were written down");
        return Err(format!("it is of another version ({theirs}, this is {VERSION})"));
    }
    let row = match Cell::read(folder).map_err(said)? {
        Some(cell) => cell.row,
        None => config.get("name").and_then(toml::Value::as_str).unwrap_or("unnamed").to_owned(),
    };
    let seed = config.get("seed").and_then(toml::Value::as_integer).ok_or("config.toml: it has no seed")?;
    let expressions = read_expressions(folder).map_err(said)?;
    for (split, report) in metrics.splits.iter().filter(|(split, _)| !split.contains(", ")) {
        let (n, found) = (
            report.all.segmentation.n_expressions,
            // An expression counts once.
            expressions
                .iter()
                .filter(|one| one.split == *split)
                .map(|one| (one.evaluated.ref_id, one.evaluated.sent_id))
                .collect::<BTreeSet<_>>()
                .len(),
        );
        if n != found {
            return Err(format!("expressions.jsonl: it holds {found} of the {n} expressions of {split}"));
        }
    }
    let mut of_expressions = expressions.iter().map(|one| &one.evaluated);
    if let Some(wrong) = of_expressions.find(|one| !one.activation.overlap.is_possible()) {
        let (id, sentence) = (wrong.ref_id, wrong.sent_id);
        return Err(format!(
            "expressions.jsonl: ref {id}, sentence {sentence}: more pixels in common than the prediction or the target has"
        ));
    }
    let point = |record: Record| match record {
        Record::Eval(eval) if is_val(&eval.split) => {
            Some((eval.step as f64, eval.report.all.segmentation.miou))
        }
        _ => None,
    };
    Ok(Run {
        path: folder.to_path_buf(),
        row,
        seed: seed as u64,
        step: metrics.step,
        config,
        splits: metrics.splits,
        trained_values: metrics.trained_values,
        step_seconds: metrics.runtime.median_step_seconds,
        peak_rss_mib: metrics.runtime.peak_rss_mib,
        expressions,
        val_curve: read_records(folder).map_err(said)?.into_iter().filter_map(point).collect(),
    })
}

impl Run {
    /// Whether the runs differ in their seeds at most.
    fn is_like(&self, other: &Self) -> bool {
        self.step == other.step && self.without_seed() == other.without_seed()
    }

    fn without_seed(&self) -> toml::Table {
        let mut config = self.config.clone();
        config.remove("seed");
        config
    }

    /// The data sets that the run trained on; empty if its config names none.
    pub fn datasets(&self) -> Vec<&str> {
        let names = self.config.get("data").and_then(|data| data.get("datasets")?.as_array());
        names.into_iter().flatten().filter_map(toml::Value::as_str).collect()
    }

    /// The run's value of a grouping key: `row`, `seed`, or a config key such as `loss.cpcl`. `None` if the config lacks the
    /// key.
    pub fn group(&self, key: &str) -> Option<String> {
        match key {
            "row" => Some(self.row.clone()),
            "seed" => Some(self.seed.to_string()),
            key => {
                let mut parts = key.split('.');
                let first = self.config.get(parts.next()?)?;
                let value = parts.try_fold(first, |value, part| value.get(part))?;
                Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
            }
        }
    }
}
