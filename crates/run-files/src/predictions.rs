//! Predicted masks in a file: JSONL, a line an expression.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use refcoco::evaluation::Query;
use refcoco::{Dataset, Mask};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::{Error, Result};

/// `ref_id` and `sent_id`.
pub type Key = (i64, i64);

/// What a predicted mask of a query is kept under.
pub fn key_of(dataset: &Dataset, query: &Query) -> Key {
    (dataset.refs[query.ref_index].ref_id, query.sent_id)
}

/// A line of `predictions.jsonl`: `{"ref_id": 1, "sent_id": 2, "segmentation": {"size": [h, w], "counts": "..."}}` with COCO's
/// compressed run lengths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PredictionLine {
    ref_id: i64,
    sent_id: i64,
    segmentation: RunLengths,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct RunLengths {
    /// Height and width.
    size: [usize; 2],
    counts: String,
}

impl PredictionLine {
    /// A mask for an expression.
    pub fn new((ref_id, sent_id): Key, mask: &Mask) -> Self {
        let segmentation = RunLengths { size: [mask.height, mask.width], counts: mask.to_rle_string() };
        Self { ref_id, sent_id, segmentation }
    }
}

impl std::fmt::Display for PredictionLine {
    /// The line, without its end.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| std::fmt::Error)?)
    }
}

/// Whether masks may be written to a path: nothing is there, or a file of predictions, which is replaced. Anything else is somebody
/// else's, an annotation file or a picture of the very data set, perhaps.
pub fn may_hold_predictions(path: &Path) -> bool {
    if std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() == 0) || !path.exists() {
        return true;
    }
    let first = refcoco::read_lines(path).ok().and_then(|mut lines| lines.next()?.ok());
    first.is_some_and(|(_, line)| serde_json::from_str::<ReadLine>(&line).is_ok())
}

#[derive(Deserialize)]
struct ReadLine {
    ref_id: i64,
    sent_id: i64,
    segmentation: Box<RawValue>,
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
        for line in refcoco::read_lines(path)? {
            let (number, line) = line?;
            let fail = |what: String| Error::Line { path: path.to_path_buf(), number, what };
            let ReadLine { ref_id, sent_id, segmentation } =
                serde_json::from_str(&line).map_err(|error| fail(error.to_string()))?;
            if !known.contains(&(ref_id, sent_id)) {
                let name = &dataset.descriptor.name;
                return Err(fail(format!(
                    "{name} has no expression with ref_id {ref_id} and sent_id {sent_id}"
                )));
            }
            if let Some((first, _)) = lines.insert((ref_id, sent_id), (number, segmentation)) {
                return Err(fail(format!(
                    "ref_id {ref_id}, sent_id {sent_id} stands in line {first} already"
                )));
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
        let unanswered = || Error::Unanswered { path: self.path.clone(), ref_id: key.0, sent_id: key.1 };
        let (number, segmentation) = self.lines.get(&key).ok_or_else(unanswered)?;
        Mask::from_json(width, height, segmentation.get()).map_err(|error| Error::Line {
            path: self.path.clone(),
            number: *number,
            what: error.to_string(),
        })
    }
}
