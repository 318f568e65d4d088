use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use metrics::SplitReport;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A line of `records.jsonl`. Clock, rate and memory are only inside `runtime`: two runs of one seed differ there alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Record {
    /// An optimiser step.
    Step(StepRecord),
    /// An evaluation on the way.
    Eval(EvalRecord),
    /// An evaluation of the best model, at the end.
    Final(EvalRecord),
}

impl Record {
    /// The optimiser steps done by then.
    pub fn step(&self) -> u64 {
        match self {
            Self::Step(record) => record.step,
            Self::Eval(record) | Self::Final(record) => record.step,
        }
    }
}

/// An optimiser step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Its number, from 1.
    pub step: u64,
    /// Its epoch, from 0.
    pub epoch: u64,
    /// Learning rate of the head.
    pub lr: f64,
    /// Loss terms by name, `total` among them; none for what is not finite.
    pub loss: BTreeMap<String, Option<f64>>,
    /// Whether the update was left out, as float16 does where a gradient overflows.
    pub skipped: bool,
    /// Samples that could not be read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bad_samples: Vec<UnreadSample>,
    /// What it took.
    #[serde(default)]
    pub runtime: StepTime,
}

/// A sample that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadSample {
    /// `data set name/ref_id`.
    #[serde(rename = "ref")]
    pub name: String,
    /// Why; names the file or annotation.
    pub error: String,
}

/// What a step took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StepTime {
    /// Wall time.
    pub seconds: Option<f64>,
    /// Samples of all processes a second.
    pub samples_per_s: Option<f64>,
    /// Resident memory behind it, in MiB.
    pub rss_mib: Option<f64>,
    /// Open files, sockets and the like behind it.
    pub open_files: Option<usize>,
}

/// An evaluation of one split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalRecord {
    /// Optimiser steps done.
    pub step: u64,
    /// Epochs finished.
    pub epoch: u64,
    /// The split.
    pub split: String,
    /// What was found.
    #[serde(flatten)]
    pub report: SplitReport,
    /// What it took.
    #[serde(default)]
    pub runtime: EvalTime,
}

/// What an evaluation took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EvalTime {
    /// Wall time.
    pub seconds: Option<f64>,
}

/// Where a run's records are.
pub fn records_file(run: &Path) -> PathBuf {
    run.join("records.jsonl")
}

/// A run's records. A part of a line at the end does not count: the run may have been ended while it wrote.
///
/// # Errors
/// When the file cannot be read, or a line is none of ours.
pub fn read_records(run: &Path) -> Result<Vec<Record>> {
    let path = records_file(run);
    let bytes = crate::error::read_bytes(&path)?;
    let end = bytes.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
    let parse = |(number, line): (usize, &[u8])| {
        serde_json::from_slice(line).map_err(|error| Error::Line {
            path: path.clone(),
            number,
            what: error.to_string(),
        })
    };
    (1..)
        .zip(bytes[..end].split(|byte| *byte == b'\n'))
        .filter(|(_, line)| !line.is_empty())
        .map(parse)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_they_were_written() {
        let step = Record::Step(StepRecord {
            step: 3,
            epoch: 0,
            lr: 1e-4,
            loss: BTreeMap::from([("seg".into(), Some(0.5)), ("total".into(), None)]),
            skipped: true,
            bad_samples: vec![UnreadSample { name: "refcoco/7".into(), error: "a.jpg: cut".into() }],
            runtime: StepTime { seconds: Some(0.25), ..StepTime::default() },
        });
        let eval = Record::Eval(EvalRecord {
            step: 3,
            epoch: 1,
            split: "val".into(),
            report: SplitReport::new(&[]),
            runtime: EvalTime::default(),
        });
        let folder = tempfile::tempdir().unwrap();
        let lines: Vec<String> = [&step, &eval].map(|record| serde_json::to_string(record).unwrap()).to_vec();
        assert!(lines[0].contains("\"kind\":\"step\"") && lines[0].contains("\"ref\":\"refcoco/7\""));
        assert!(lines[1].contains("\"kind\":\"eval\"") && lines[1].contains("\"mIoU\":"));
        let file = records_file(folder.path());
        std::fs::write(&file, format!("{}\n{{\"kind\":\"st", lines.join("\n"))).unwrap();
        assert_eq!(read_records(folder.path()).unwrap(), [step, eval]);
        std::fs::write(&file, format!("{}\n{{}}\n", lines[0])).unwrap();
        let error = read_records(folder.path()).unwrap_err().to_string();
        assert!(error.contains("records.jsonl: line 2"), "{error}");
    }
}
