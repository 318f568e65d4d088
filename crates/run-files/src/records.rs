use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use metrics::SplitReport;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A line of `records.jsonl`. Time, rate and memory are only in `runtime`, and two runs of one seed differ only there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Record {
    /// An optimiser step.
    Step(StepRecord),
    /// An evaluation during training.
    Eval(EvalRecord),
    /// An evaluation of the best model, at the end.
    Final(EvalRecord),
}

impl Record {
    /// Number of optimiser steps done so far.
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
    /// Number of the step, from 1.
    pub step: u64,
    /// Number of the epoch, from 0.
    pub epoch: u64,
    /// Learning rate of the head.
    pub lr: f64,
    /// Loss terms by name, including `total`; `None` for values that are not finite.
    pub loss: BTreeMap<String, Option<f64>>,
    /// Whether the update was skipped, as with float16 when a gradient overflows.
    pub skipped: bool,
    /// Samples of the batch that could not be read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bad_samples: Vec<UnreadSample>,
    /// Time and memory of the step.
    #[serde(default)]
    pub runtime: StepTime,
}

/// A sample that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadSample {
    /// Name of the sample: `data set name/ref_id`.
    #[serde(rename = "ref")]
    pub name: String,
    /// Reason, which names the file or annotation.
    pub error: String,
}

/// Time and memory of a step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StepTime {
    /// Wall time in seconds.
    pub seconds: Option<f64>,
    /// Samples per second, over all ranks.
    pub samples_per_s: Option<f64>,
    /// Resident memory after the step, in MiB.
    pub rss_mib: Option<f64>,
    /// Number of open file descriptors after the step: files, sockets and others.
    pub open_files: Option<usize>,
}

/// An evaluation of one split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalRecord {
    /// Number of optimiser steps done.
    pub step: u64,
    /// Number of epochs finished.
    pub epoch: u64,
    /// Name of the split.
    pub split: String,
    /// Metrics of the split.
    #[serde(flatten)]
    pub report: SplitReport,
    /// Time of the evaluation.
    #[serde(default)]
    pub runtime: EvalTime,
}

/// Time of an evaluation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EvalTime {
    /// Wall time in seconds.
    pub seconds: Option<f64>,
}

/// Path of a run's `records.jsonl`.
pub fn records_file(run: &Path) -> PathBuf {
    run.join("records.jsonl")
}

/// Reads a run's records. An incomplete last line is ignored: the run may have been ended while it wrote.
///
/// # Errors
/// When the file cannot be read, or a line is malformed.
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
