//! A run's folder: resolved config, environment, records, checkpoints, pictures.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use metrics::Evaluated;
use serde_json::{Value, json};

use crate::checkpoint::Checkpoints;
use crate::config::Config;
use crate::files::{remove_unfinished, write_atomically};

/// The right to work in a run's folder. It ends with the process, however that ends.
#[derive(Debug)]
pub(crate) struct RunLock {
    path: PathBuf,
    /// Locked as long as it is open.
    _file: File,
}

impl RunLock {
    /// Creates the folder if there is none.
    ///
    /// # Errors
    /// When another process works in it.
    pub(crate) fn take(path: &Path) -> Result<Self> {
        std::fs::create_dir_all(path).with_context(|| path.display().to_string())?;
        let name = path.join("run.lock");
        let file = File::create(&name).with_context(|| name.display().to_string())?;
        match file.try_lock() {
            Ok(()) => Ok(Self { path: path.to_path_buf(), _file: file }),
            Err(TryLockError::WouldBlock) => {
                bail!("{}: another process is training in this folder", path.display())
            }
            Err(TryLockError::Error(error)) => Err(error).with_context(|| name.display().to_string()),
        }
    }
}

/// A run's folder.
#[derive(Debug)]
pub(crate) struct RunDir {
    lock: RunLock,
    records: File,
    n_records: usize,
}

impl RunDir {
    /// Prepares the folder, keeping its first `n_records` records.
    ///
    /// # Errors
    /// When there are fewer, or something cannot be written.
    pub(crate) fn open(lock: RunLock, cfg: &Config, environment: &Value, n_records: usize) -> Result<Self> {
        let path = &lock.path;
        let checkpoints = Checkpoints::of(path);
        std::fs::create_dir_all(checkpoints.path())
            .with_context(|| checkpoints.path().display().to_string())?;
        remove_unfinished(path)?;
        remove_unfinished(checkpoints.path())?;
        write_atomically(&path.join("config.toml"), toml::to_string_pretty(cfg)?.as_bytes())?;
        let text = serde_json::to_string_pretty(environment)?;
        write_atomically(&path.join("environment.json"), text.as_bytes())?;
        let records = records_file(path);
        let before = if n_records == 0 { Vec::new() } else { read_lines(&records)? };
        ensure!(
            before.len() >= n_records,
            "{}: it holds {} records, but the checkpoint was written after {n_records}",
            records.display(),
            before.len()
        );
        let kept: String = before.iter().take(n_records).map(|line| format!("{line}\n")).collect();
        write_atomically(&records, kept.as_bytes())?;
        let file =
            OpenOptions::new().append(true).open(&records).with_context(|| records.display().to_string())?;
        Ok(Self { lock, records: file, n_records })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.lock.path
    }

    pub(crate) fn checkpoints(&self) -> Checkpoints {
        Checkpoints::of(self.path())
    }

    pub(crate) fn n_records(&self) -> usize {
        self.n_records
    }

    /// Appends one record. Clock, rate, memory and path values belong into an object called `runtime`.
    pub(crate) fn record(&mut self, record: &Value) -> Result<()> {
        let line = format!("{record}\n");
        let path = records_file(self.path());
        let name = || path.display().to_string();
        self.records.write_all(line.as_bytes()).with_context(name)?;
        // A file that was removed can still be written to, in vain.
        ensure!(self.records.metadata().with_context(name)?.nlink() > 0, "{}: it was removed", name());
        self.n_records += 1;
        Ok(())
    }

    /// Returns when all records are on the disk.
    pub(crate) fn sync_records(&self) -> Result<()> {
        self.records.sync_data().with_context(|| records_file(self.path()).display().to_string())
    }

    /// Writes what was measured of each expression of some splits: `expressions.jsonl`, a line an expression.
    pub(crate) fn write_expressions(&self, splits: &[(String, Vec<Evaluated>)]) -> Result<()> {
        let mut lines = String::new();
        for (split, expressions) in splits {
            for expression in expressions {
                let mut line = serde_json::to_value(expression)?;
                line["split"] = json!(split);
                lines.push_str(&format!("{line}\n"));
            }
        }
        write_atomically(&self.path().join("expressions.jsonl"), lines.as_bytes())
    }

    /// All records so far.
    pub(crate) fn records(&self) -> Result<Vec<Value>> {
        let path = records_file(self.path());
        let lines = read_lines(&path)?;
        lines
            .iter()
            .map(|line| serde_json::from_str(line).with_context(|| path.display().to_string()))
            .collect()
    }
}

/// Where a run's records are.
pub(crate) fn records_file(run: &Path) -> PathBuf {
    run.join("records.jsonl")
}

fn read_lines(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// The processor's name.
pub(crate) fn cpu_model() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("model name"))?;
    Some(line.trim_start_matches([' ', '\t', ':']).to_owned())
}

/// What a run ran on.
pub(crate) fn environment(device: tch::Device, data_root: &Path, matmul: &str, seed: u64) -> Result<Value> {
    let git = |args: &[&str]| {
        let output = std::process::Command::new("git")
            .args(args)
            .output()
            .ok()
            .filter(|output| output.status.success());
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    Ok(json!({
        "talent": env!("CARGO_PKG_VERSION"),
        "git_commit": git(&["rev-parse", "HEAD"]),
        "git_modified": git(&["status", "--porcelain"]).map(|text| !text.is_empty()),
        "libtorch": torch_ext::version()?,
        "device": format!("{device:?}"),
        "cuda_devices": tch::Cuda::device_count(),
        "cpu": cpu_model(),
        "threads": tch::get_num_threads(),
        "seed": seed,
        "matmul_dtype": matmul,
        "data_root": data_root.canonicalize().unwrap_or_else(|_| data_root.to_path_buf()),
        "command": std::env::args().collect::<Vec<_>>(),
    }))
}
