//! A run's folder: resolved config, environment, records, checkpoints, pictures.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use metrics::Evaluated;
use serde_json::{Value, json};

use crate::checkpoint::write_atomically;
use crate::config::Config;

/// A run's folder.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
    records: File,
    n_records: usize,
}

impl RunDir {
    /// Creates the folder, or opens it keeping its first `n_records` records.
    pub(crate) fn open(path: &Path, cfg: &Config, environment: &Value, n_records: usize) -> Result<Self> {
        let checkpoints = path.join("checkpoints");
        std::fs::create_dir_all(&checkpoints).with_context(|| checkpoints.display().to_string())?;
        write_atomically(&path.join("config.toml"), toml::to_string_pretty(cfg)?.as_bytes())?;
        let text = serde_json::to_string_pretty(environment)?;
        write_atomically(&path.join("environment.json"), text.as_bytes())?;
        let records = path.join("records.jsonl");
        let before = if n_records == 0 { Vec::new() } else { read_lines(&records)? };
        let kept: String = before.iter().take(n_records).map(|line| format!("{line}\n")).collect();
        write_atomically(&records, kept.as_bytes())?;
        let file =
            OpenOptions::new().append(true).open(&records).with_context(|| records.display().to_string())?;
        Ok(Self { path: path.to_path_buf(), records: file, n_records: n_records.min(before.len()) })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn checkpoint(&self, name: &str) -> PathBuf {
        self.path.join("checkpoints").join(format!("{name}.safetensors"))
    }

    pub(crate) fn n_records(&self) -> usize {
        self.n_records
    }

    /// Appends one record. Clock, rate, memory and path values belong into an object called `runtime`.
    pub(crate) fn record(&mut self, record: &Value) -> Result<()> {
        let line = format!("{record}\n");
        self.records
            .write_all(line.as_bytes())
            .with_context(|| format!("{}: records.jsonl", self.path.display()))?;
        self.n_records += 1;
        Ok(())
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
        write_atomically(&self.path.join("expressions.jsonl"), lines.as_bytes())
    }

    /// All records so far.
    pub(crate) fn records(&self) -> Result<Vec<Value>> {
        let path = self.path.join("records.jsonl");
        let lines = read_lines(&path)?;
        lines
            .iter()
            .map(|line| serde_json::from_str(line).with_context(|| path.display().to_string()))
            .collect()
    }
}

fn read_lines(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(text.lines().map(str::to_owned).collect())
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
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map(|line| line.trim_start_matches([' ', '\t', ':']));
    Ok(json!({
        "talent": env!("CARGO_PKG_VERSION"),
        "git_commit": git(&["rev-parse", "HEAD"]),
        "git_modified": git(&["status", "--porcelain"]).map(|text| !text.is_empty()),
        "libtorch": torch_ext::version()?,
        "device": format!("{device:?}"),
        "cuda_devices": tch::Cuda::device_count(),
        "cpu": cpu,
        "threads": tch::get_num_threads(),
        "seed": seed,
        "matmul_dtype": matmul,
        "data_root": data_root.canonicalize().unwrap_or_else(|_| data_root.to_path_buf()),
        "command": std::env::args().collect::<Vec<_>>(),
    }))
}
