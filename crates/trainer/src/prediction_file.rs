//! Predicted masks as a file that `eval --predictions` reads, so that they can be scored and shown again.

use std::path::Path;

use anyhow::Result;
use refcoco::Dataset;
use run_files::{PredictionLine, key_of};

use crate::distributed::Processes;
use crate::evaluate::{Prediction, merge_by_place};

/// Collects one line per expression.
#[derive(Debug)]
pub(crate) struct PredictionFile {
    threshold: f32,
    /// Each query's place in the split, and its line.
    lines: Vec<(usize, String)>,
}

impl PredictionFile {
    /// - threshold: probability above which a pixel is foreground
    pub(crate) fn new(threshold: f32) -> Self {
        Self { threshold, lines: Vec::new() }
    }

    pub(crate) fn visit(&mut self, place: usize, dataset: &Dataset, prediction: &Prediction<'_>) {
        let key = key_of(dataset, &prediction.item.query);
        let line = PredictionLine::new(key, &prediction.mask(self.threshold));
        self.lines.push((place, line.to_string()));
    }

    /// Adds the lines of the other ranks.
    pub(crate) fn gather(self, processes: &Processes) -> Result<Self> {
        Ok(Self { lines: merge_by_place(processes.gather(self.lines)?), ..self })
    }

    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let text: String = self.lines.iter().map(|(_, line)| format!("{line}\n")).collect();
        Ok(whole_file::write(path, text.as_bytes())?)
    }
}
