use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use metrics::{Evaluated, SplitReport};
use serde::Deserialize;

use crate::{Error, io_error};

/// A finished run.
#[derive(Debug, Clone)]
pub struct Run {
    /// Its folder.
    pub path: PathBuf,
    /// What it is called in tables: the ablation's row, or its config's name.
    pub row: String,
    /// Its seed.
    pub seed: u64,
    /// Its resolved configuration.
    pub config: toml::Table,
    /// Reports by split.
    pub splits: BTreeMap<String, SplitReport>,
    /// Values that trained.
    pub trained_values: u64,
    /// Median seconds of a step.
    pub step_seconds: Option<f64>,
    /// Largest memory held, in MiB.
    pub peak_rss_mib: Option<f64>,
    /// What was measured of each expression.
    pub expressions: Vec<Expression>,
    /// Validation mIoU by step, of the first data set.
    pub val_curve: Vec<(f64, f64)>,
}

/// One evaluated expression of a run.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Expression {
    /// The split.
    pub split: String,
    /// What was measured.
    #[serde(flatten)]
    pub evaluated: Evaluated,
}

/// What `ablate` says of a folder of runs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Plan {
    /// Its name.
    pub name: String,
    /// The row to compare with.
    pub baseline: String,
    rows: Vec<PlanRow>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct PlanRow {
    name: String,
}

impl Plan {
    /// Reads `ablation.json` beside or above a run.
    fn of(run: &Path) -> Option<Self> {
        run.ancestors().take(4).find_map(|folder| {
            let path = folder.join("ablation.json");
            let text = path.is_file().then(|| std::fs::read_to_string(&path).ok())??;
            serde_json::from_str(&text).ok()
        })
    }

    /// Its rows' names, in order.
    pub fn rows(&self) -> impl Iterator<Item = &str> {
        self.rows.iter().map(|row| row.name.as_str())
    }
}

/// A run that is not in the tables, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Its folder.
    pub run: PathBuf,
    /// What is wrong with it.
    pub what: String,
}

/// What [`read_runs`] found.
#[derive(Debug, Clone)]
pub struct Found {
    /// Finished runs, in the order of their paths.
    pub runs: Vec<Run>,
    /// The ablation that the first of them belongs to.
    pub plan: Option<Plan>,
    /// What is not among the runs.
    pub problems: Vec<Problem>,
}

#[derive(Deserialize)]
struct MetricsFile {
    version: Option<String>,
    #[serde(default)]
    trained_values: u64,
    splits: BTreeMap<String, SplitReport>,
    #[serde(default)]
    runtime: Runtime,
}

#[derive(Default, Deserialize)]
struct Runtime {
    median_step_seconds: Option<f64>,
    peak_rss_mib: Option<f64>,
}

#[derive(Deserialize)]
struct CellFile {
    row: String,
}

#[derive(Deserialize)]
struct Record {
    kind: String,
    split: Option<String>,
    step: Option<f64>,
    #[serde(rename = "mIoU")]
    miou: Option<f64>,
}

/// Reads all runs in the folders that a pattern names and in the folders below them, in the order of their paths.
///
/// # Errors
/// When the pattern is malformed or a folder cannot be read. Runs that are not finished, or that another version wrote, are
/// among the problems.
pub fn read_runs(pattern: &Path) -> Result<Found, Error> {
    let mut folders = Vec::new();
    for found in matches(pattern)? {
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
            Err(what) => problems.push(Problem { run: folder.clone(), what }),
        }
    }
    let plan = runs.first().and_then(|run| Plan::of(&run.path));
    Ok(Found { runs, plan, problems })
}

/// What a pattern names. A folder of that very name comes first: it may hold brackets, or be no UTF-8.
fn matches(pattern: &Path) -> Result<Vec<PathBuf>, Error> {
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

/// Folders that hold a run: `config.toml` is the first thing a run writes.
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
    // A pipe would be waited for.
    let place = |name: &str| {
        let path = folder.join(name);
        match path.exists() && !path.is_file() {
            true => Err(format!("{name}: this is not a file")),
            false => Ok(path),
        }
    };
    let read = |name: &str| std::fs::read_to_string(place(name)?).map_err(|error| format!("{name}: {error}"));
    let config: toml::Table =
        read("config.toml")?.parse().map_err(|error| format!("config.toml: {error}"))?;
    if !folder.join("metrics.json").is_file() {
        return Err("it is not finished: there is no metrics.json".into());
    }
    let metrics: MetricsFile =
        serde_json::from_str(&read("metrics.json")?).map_err(|error| format!("metrics.json: {error}"))?;
    let ours = env!("CARGO_PKG_VERSION");
    if metrics.version.as_deref() != Some(ours) {
        let theirs = metrics.version.as_deref().unwrap_or("before versions were written down");
        return Err(format!("it is of another version ({theirs}, this is {ours})"));
    }
    let row = match read("cell.json") {
        Ok(text) => {
            let cell: CellFile =
                serde_json::from_str(&text).map_err(|error| format!("cell.json: {error}"))?;
            cell.row
        }
        Err(_) => config.get("name").and_then(toml::Value::as_str).unwrap_or("unnamed").to_owned(),
    };
    let seed = config.get("seed").and_then(toml::Value::as_integer).ok_or("config.toml: it has no seed")?;
    let lines =
        |name: &str| -> Result<Vec<String>, String> { Ok(read(name)?.lines().map(str::to_owned).collect()) };
    let expressions = lines("expressions.jsonl")?
        .iter()
        .enumerate()
        .map(|(index, line)| {
            serde_json::from_str(line)
                .map_err(|error| format!("expressions.jsonl: line {}: {error}", index + 1))
        })
        .collect::<Result<_, String>>()?;
    let mut val_curve = Vec::new();
    let records =
        std::fs::read(place("records.jsonl")?).map_err(|error| format!("records.jsonl: {error}"))?;
    // A run that was told to go on and was ended may have left a part of a line.
    let whole = records.rsplitn(2, |byte| *byte == b'\n').nth(1).unwrap_or_default();
    for (index, line) in whole.split(|byte| *byte == b'\n').enumerate() {
        let record: Record = serde_json::from_slice(line)
            .map_err(|error| format!("records.jsonl: line {}: {error}", index + 1))?;
        let is_val = record.split.as_deref().is_some_and(|split| split == "val" || split.ends_with("/val"));
        if let (true, "eval", Some(step), Some(miou)) =
            (is_val, record.kind.as_str(), record.step, record.miou)
        {
            val_curve.push((step, miou));
        }
    }
    Ok(Run {
        path: folder.to_path_buf(),
        row,
        seed: seed as u64,
        config,
        splits: metrics.splits,
        trained_values: metrics.trained_values,
        step_seconds: metrics.runtime.median_step_seconds,
        peak_rss_mib: metrics.runtime.peak_rss_mib,
        expressions,
        val_curve,
    })
}

impl Run {
    /// The data sets it trained on; empty if its config names none.
    pub fn datasets(&self) -> Vec<&str> {
        let names = self.config.get("data").and_then(|data| data.get("datasets")?.as_array());
        names.into_iter().flatten().filter_map(toml::Value::as_str).collect()
    }

    /// What a run is grouped by: `row`, `seed`, or a config key such as `loss.cpcl`; none if it has no such key.
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
