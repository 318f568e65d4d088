//! Predicted masks in a JSONL file, one line per expression.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use refcoco::evaluation::Query;
use refcoco::{Dataset, Mask, json_problem, whole_number};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::{Error, Result};

/// `ref_id` and `sent_id` of an expression.
pub type Key = (i64, i64);

/// The key of a query's predicted mask.
pub fn key_of(dataset: &Dataset, query: &Query) -> Key {
    (dataset.refs[query.ref_index].ref_id, query.sent_id)
}

/// A line of `predictions.jsonl`: `{"ref_id": 1, "sent_id": 2, "segmentation": {"size": [h, w], "counts": "..."}}` with COCO's
/// compressed RLE.
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
    /// The line for an expression's mask.
    pub fn new((ref_id, sent_id): Key, mask: &Mask) -> Self {
        let segmentation = RunLengths { size: [mask.height, mask.width], counts: mask.to_rle_string() };
        Self { ref_id, sent_id, segmentation }
    }
}

impl std::fmt::Display for PredictionLine {
    /// Writes the line, without a line break.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| std::fmt::Error)?)
    }
}

/// Whether masks may be written to a path: it does not exist, is empty, or is a file of predictions, which is replaced. Any
/// other file is kept: it might be an annotation file or a picture of the data set.
pub fn may_hold_predictions(path: &Path) -> bool {
    if std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() == 0) || !path.exists() {
        return true;
    }
    let first = refcoco::read_lines(path).ok().and_then(|mut lines| lines.next()?.ok());
    first.is_some_and(|(_, line)| parse_line(&line).is_ok())
}

#[derive(Deserialize)]
#[serde(expecting = "an object with `ref_id`, `sent_id` and `segmentation`")]
struct ReadLine {
    #[serde(default)]
    dataset: Option<String>,
    ref_id: serde_json::Value,
    sent_id: serde_json::Value,
    segmentation: Box<RawValue>,
}

/// A line as it is read: its data set if it names one, its expression, and its segmentation.
fn parse_line(line: &str) -> std::result::Result<(Option<String>, Key, Box<RawValue>), String> {
    let ReadLine { dataset, ref_id, sent_id, segmentation } =
        serde_json::from_str(line).map_err(|error| {
            let text = json_problem(&error);
            let is_coco = text.contains("missing field")
                && line.contains("\"image_id\"")
                && line.contains("\"category_id\"");
            let without_ids = text.contains("missing field `ref_id`") && line.contains("\"expression\"");
            match is_coco {
                false if without_ids => {
                    "this line has no `ref_id` and `sent_id`: it was predicted from a list without them, so that there is no truth to \
                     compare it with"
                        .to_owned()
                }
                true => {
                    format!(
                        "{text}: these are COCO results; a line needs `ref_id`, `sent_id` and `segmentation`"
                    )
                }
                false => text,
            }
        })?;
    let number = |name: &str, value: &serde_json::Value| {
        whole_number(value).ok_or_else(|| format!("`{name}` must be a whole number, not {value}"))
    };
    Ok((dataset, (number("ref_id", &ref_id)?, number("sent_id", &sent_id)?), segmentation))
}

/// A file of predicted masks, which are decoded on demand.
#[derive(Debug)]
pub struct Predictions {
    path: PathBuf,
    /// Line number, and segmentation as raw JSON.
    lines: BTreeMap<Key, (usize, Box<RawValue>)>,
}

/// Whether a segmentation says "nothing found": null, an empty list, or a list of empty polygons.
fn finds_nothing(segmentation: &str) -> bool {
    fn is_empty(value: &serde_json::Value, depth: usize) -> bool {
        match value {
            serde_json::Value::Null => depth == 0,
            serde_json::Value::Array(items) => {
                depth < 4 && items.iter().all(|item| is_empty(item, depth + 1))
            }
            _ => false,
        }
    }
    // Real masks are long, and begin with something else.
    segmentation.len() < 64 && serde_json::from_str(segmentation).is_ok_and(|value| is_empty(&value, 0))
}

impl Predictions {
    /// Reads the masks of expressions of a data set. Lines that name another one (`"dataset": "refcoco_m"`) are left out.
    ///
    /// # Errors
    /// When a line is malformed, or its expression is not in the data set or has another line; the message names the file and
    /// line.
    pub fn read(path: &Path, dataset: &Dataset) -> Result<Self> {
        Self::read_lines(path, dataset, true)
    }

    /// As [`Predictions::read`], from a file with lines of several data sets: those whose expression is not in this one are left
    /// out.
    ///
    /// # Errors
    /// As [`Predictions::read`], but for unknown expressions.
    pub fn read_matching(path: &Path, dataset: &Dataset) -> Result<Self> {
        Self::read_lines(path, dataset, false)
    }

    fn read_lines(path: &Path, dataset: &Dataset, only_this: bool) -> Result<Self> {
        let known: BTreeSet<Key> = dataset
            .refs
            .iter()
            .flat_map(|reference| reference.expressions.iter().map(|one| (reference.ref_id, one.sent_id)))
            .collect();
        let (mut lines, mut n_lines, mut others) = (BTreeMap::new(), 0, BTreeSet::new());
        for line in refcoco::read_lines(path)? {
            let (number, line) = line?;
            let fail = |what: String| Error::Line { path: path.to_path_buf(), number, what };
            let (of, (ref_id, sent_id), segmentation) = parse_line(&line).map_err(fail)?;
            let name = &dataset.descriptor.name;
            n_lines += 1;
            if let Some(of) = of.filter(|of| of != name) {
                others.insert(of);
                continue;
            }
            if !known.contains(&(ref_id, sent_id)) {
                if !only_this {
                    continue;
                }
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
        let whole = |what: String| Error::Line { path: path.to_path_buf(), number: 1, what };
        if n_lines == 0 {
            return Err(whole("there is none: the file is empty".to_owned()));
        }
        if only_this && lines.is_empty() {
            let names: Vec<String> = others.into_iter().collect();
            let name = &dataset.descriptor.name;
            return Err(whole(format!("no line is about {name}; the lines name {}", names.join(", "))));
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
    /// When the mask is malformed or of another size, or when no line has the expression; the message names the file, and the
    /// line or the expression.
    pub fn mask(&self, key: Key, width: usize, height: usize) -> Result<Mask> {
        let unanswered = || Error::Unanswered { path: self.path.clone(), ref_id: key.0, sent_id: key.1 };
        let (number, segmentation) = self.lines.get(&key).ok_or_else(unanswered)?;
        if finds_nothing(segmentation.get()) {
            return Ok(Mask::zeros(width, height));
        }
        Mask::from_json(width, height, segmentation.get()).map_err(|error| Error::Line {
            path: self.path.clone(),
            number: *number,
            what: error.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_every_form_and_messages_without_rust() {
        let line = |ref_id: &str| format!(r#"{{"ref_id": {ref_id}, "sent_id": 2.0, "segmentation": null}}"#);
        for form in ["7", "7.0", "\"7\""] {
            assert_eq!(parse_line(&line(form)).unwrap().1, (7, 2), "{form}");
        }
        for form in ["null", "7.5", "true", "[7]", "\"x\""] {
            let error = parse_line(&line(form)).unwrap_err();
            assert!(error.contains("`ref_id` must be a whole number") && !error.contains("enum"), "{error}");
        }
    }

    #[test]
    fn nothing_found_in_every_form() {
        for form in ["null", "[]", "[[]]", "[[], []]"] {
            assert!(finds_nothing(form), "{form}");
        }
        for form in ["[1, 2]", "{}", "0", "[null]"] {
            assert!(!finds_nothing(form), "{form}");
        }
    }
}
