//! Predicted masks as a file that `eval --predictions` reads, so that they can be scored and shown again.

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;
use refcoco::{Dataset, Mask};
use serde_json::json;

use crate::checkpoint::write_atomically;
use crate::evaluate::Prediction;

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
        let (query, image) = (&prediction.item.query, &prediction.item.image);
        let data = prediction.probabilities.iter().map(|&value| u8::from(value > self.threshold)).collect();
        let mask = Mask { width: image.width, height: image.height, data };
        let line = json!({
            "ref_id": dataset.refs[query.ref_index].ref_id, "sent_id": query.sent_id,
            "segmentation": {"size": [mask.height, mask.width], "counts": mask.to_rle_string()},
        });
        // Writing to a string cannot fail.
        let _ = writeln!(self.lines, "{line}");
    }

    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        write_atomically(path, self.lines.as_bytes())
    }
}
