//! Predicted masks in a file: JSONL, a line an expression.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use refcoco::{Dataset, Mask, read_lines};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

/// `ref_id` and `sent_id`.
pub type Key = (i64, i64);

#[derive(Deserialize)]
struct Line {
    ref_id: i64,
    sent_id: i64,
    segmentation: Box<RawValue>,
}

/// The line of a file that [`Predictions::read`] reads: `{"ref_id": 1, "sent_id": 2, "segmentation": {"size": [h, w],
/// "counts": "..."}}` with COCO's compressed run lengths.
pub fn line((ref_id, sent_id): Key, mask: &Mask) -> String {
    let segmentation = json!({"size": [mask.height, mask.width], "counts": mask.to_rle_string()});
    format!("{}\n", json!({"ref_id": ref_id, "sent_id": sent_id, "segmentation": segmentation}))
}

/// A file of predicted masks. They are decoded as they are asked for.
#[derive(Debug)]
pub struct Predictions {
    path: PathBuf,
    /// The number of each line, and its segmentation as it stands there.
    lines: BTreeMap<Key, (usize, Box<RawValue>)>,
}

impl Predictions {
    /// Reads the masks of expressions of a data set.
    ///
    /// # Errors
    /// Names the file and line that is malformed, or whose expression the data set lacks or another line has.
    pub fn read(path: &Path, dataset: &Dataset) -> Result<Self> {
        let known: BTreeSet<Key> = dataset
            .refs
            .iter()
            .flat_map(|reference| reference.expressions.iter().map(|one| (reference.ref_id, one.sent_id)))
            .collect();
        let mut lines = BTreeMap::new();
        for line in read_lines(path)? {
            let (number, line) = line?;
            let at = || format!("{}: line {number}", path.display());
            let Line { ref_id, sent_id, segmentation } = serde_json::from_str(&line).with_context(at)?;
            ensure!(
                known.contains(&(ref_id, sent_id)),
                "{}: {} has no expression with ref_id {ref_id} and sent_id {sent_id}",
                at(),
                dataset.descriptor.name
            );
            if let Some((first, _)) = lines.insert((ref_id, sent_id), (number, segmentation)) {
                bail!("{}: ref_id {ref_id}, sent_id {sent_id} stands in line {first} already", at());
            }
        }
        Ok(Self { path: path.to_path_buf(), lines })
    }

    /// Whether there is a mask for an expression.
    pub fn contains(&self, key: Key) -> bool {
        self.lines.contains_key(&key)
    }

    /// The mask for an expression, in the pixels of its image.
    ///
    /// # Errors
    /// Names the file, and the line whose mask is malformed or of another size, or the expression that no line answers.
    pub fn mask(&self, key: Key, width: usize, height: usize) -> Result<Mask> {
        let (number, segmentation) = self.lines.get(&key).with_context(|| {
            format!("{}: no line has ref_id {}, sent_id {}", self.path.display(), key.0, key.1)
        })?;
        Mask::from_json(width, height, segmentation.get())
            .with_context(|| format!("{}: line {number}", self.path.display()))
    }
}
