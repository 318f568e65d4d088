use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ::metrics::SplitReport;
use serde::{Deserialize, Serialize};

use crate::error::{Result, read_document, write_document};

/// The version of this crate, which metrics files record. Metrics of another version are not compared with ours.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// `metrics.json`, the last file that a run writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Version that wrote the file; `None` for files from before versions were recorded.
    pub version: Option<String>,
    /// Optimiser steps of the run.
    #[serde(default)]
    pub step: u64,
    /// Validation mIoU of the best model, in percent.
    #[serde(default, rename = "best_val_mIoU")]
    pub best_val_miou: Option<f64>,
    /// Number of trained parameter values.
    #[serde(default)]
    pub trained_values: u64,
    /// Reports by split.
    pub splits: BTreeMap<String, SplitReport>,
    /// Samples left out because they could not be read.
    #[serde(default)]
    pub bad_samples: BTreeSet<String>,
    /// Refs left out of the evaluations because they could not be read (`eval.on_error = "skip"`).
    #[serde(default)]
    pub left_out_refs: BTreeSet<String>,
    /// Time and memory of the run.
    #[serde(default)]
    pub runtime: RunTime,
}

/// Time and memory of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunTime {
    /// Median time of a step in seconds.
    pub median_step_seconds: Option<f64>,
    /// Peak resident memory in MiB.
    pub peak_rss_mib: Option<f64>,
    /// Growth of resident memory in MiB per 1000 steps, over the second half of the steps.
    pub rss_mib_per_1000_steps: Option<f64>,
    /// Growth of the number of open files per 1000 steps, over the second half of the steps.
    pub open_files_per_1000_steps: Option<f64>,
}

/// Whether a split's name is that of a validation split: `val`, or `DATASET/val` where a run has several data sets.
pub fn is_val(split: &str) -> bool {
    split == "val" || split.ends_with("/val")
}

impl Metrics {
    /// Path of a run's `metrics.json`.
    pub fn file(run: &Path) -> PathBuf {
        run.join("metrics.json")
    }

    /// Reads a run's `metrics.json`.
    ///
    /// # Errors
    /// When the file cannot be read, or is malformed.
    pub fn read(run: &Path) -> Result<Self> {
        read_document(&Self::file(run))
    }

    /// Writes a run's `metrics.json`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, run: &Path) -> Result<()> {
        write_document(&Self::file(run), self)
    }

    /// Report on the validation split of the first data set.
    pub fn val(&self) -> Option<&SplitReport> {
        let of_several = || self.splits.iter().find(|(name, _)| is_val(name));
        self.splits.get("val").or_else(|| of_several().map(|(_, report)| report))
    }
}
