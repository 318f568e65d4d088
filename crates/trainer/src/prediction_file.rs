//! Predicted masks as a file that `eval --predictions` reads, so that they can be scored and shown again.

use std::path::Path;

use anyhow::Result;
use data_cli::predictions::line;
use data_cli::score::key;
use refcoco::Dataset;

use crate::evaluate::Prediction;
use crate::files::write_atomically;

/// Collects a line an expression.
#[derive(Debug)]
pub(crate) struct PredictionFile {
    threshold: f32,
    lines: String,
}

impl PredictionFile {
    /// - threshold: probability above which a pixel is foreground
    pub(crate) fn new(threshold: f32) -> Self {
        Self { threshold, lines: String::new() }
    }

    pub(crate) fn visit(&mut self, dataset: &Dataset, prediction: &Prediction<'_>) {
        let key = key(dataset, &prediction.item.query);
        self.lines.push_str(&line(key, &prediction.mask(self.threshold)));
    }

    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        write_atomically(path, self.lines.as_bytes())
    }
}
