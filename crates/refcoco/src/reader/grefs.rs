//! `grefs(unc).json`, the refs of gRefCOCO: expressions with none, one or several targets.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::annotation::{Expression, Ref};
use crate::error::{Error, Result, or_mistaken};
use crate::reader::in_one_line;
use crate::reader::json_text;
use crate::reader::lenient::{flag_if_any, whole, wholes};
use crate::regular_file::read_regular;

#[derive(Deserialize)]
#[serde(expecting = "a ref's record")]
struct RawRef {
    #[serde(deserialize_with = "whole")]
    ref_id: i64,
    #[serde(deserialize_with = "whole")]
    image_id: i64,
    #[serde(default, deserialize_with = "wholes")]
    ann_id: Vec<i64>,
    #[serde(default, deserialize_with = "wholes")]
    category_id: Vec<i64>,
    split: String,
    sentences: Vec<RawSentence>,
    #[serde(default, deserialize_with = "flag_if_any")]
    no_target: Option<bool>,
}

/// What a damaged ref still says of itself.
#[derive(Deserialize)]
struct OnlyId {
    #[serde(deserialize_with = "whole")]
    ref_id: i64,
}

#[derive(Deserialize)]
#[serde(expecting = "a sentence's record")]
struct RawSentence {
    #[serde(deserialize_with = "whole")]
    sent_id: i64,
    sent: String,
    #[serde(default)]
    raw: Option<String>,
}

/// Reads a `grefs(...).json`, in the order of the file. A ref without target has no annotations: in the file its
/// `ann_id` is `[-1]` and `no_target` is true.
///
/// # Errors
/// Names the file and the ref at fault: malformed JSON (with its position), missing key, wrong type, `no_target` for a ref that
/// has targets, an annotation listed twice, a ref id used twice.
pub fn read_grefs(path: &Path) -> Result<Vec<Ref>> {
    let text = read_regular(path)?;
    let mut text = Cow::Borrowed(file_kind::without_mark(&text));
    if serde_json::from_slice::<IgnoredAny>(&text).is_err() {
        text = Cow::Owned(json_text(&text));
    }
    let items: Vec<&RawValue> = serde_json::from_slice(&text)
        .map_err(|source| or_mistaken(path, Error::Json { path: path.to_path_buf(), source }))?;
    let mut seen = BTreeSet::new();
    let mut refs = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        let fail = |record: String, what: String| Error::Record { path: path.to_path_buf(), record, what };
        let raw: RawRef = serde_json::from_str(item.get())
            .map_err(|error| fail(named(item, index), in_one_line(&error)))?;
        let record = format!("ref_id {}", raw.ref_id);
        if !seen.insert(raw.ref_id) {
            return Err(fail(record, "this ref_id occurs twice".into()));
        }
        refs.push(convert(raw).map_err(|what| fail(record, what))?);
    }
    Ok(refs)
}

/// A ref by its id if it has one, otherwise by its place in the file.
fn named(item: &RawValue, index: usize) -> String {
    let id = serde_json::from_str::<OnlyId>(item.get());
    id.map_or_else(|_| format!("ref number {index}"), |OnlyId { ref_id }| format!("ref_id {ref_id}"))
}

fn convert(raw: RawRef) -> Result<Ref, String> {
    let (ann_ids, category_ids) = (raw.ann_id, raw.category_id);
    match raw.no_target {
        Some(true) if !ann_ids.is_empty() => {
            return Err(format!("`no_target` is true, but `ann_id` names {ann_ids:?}"));
        }
        Some(false) if ann_ids.is_empty() => {
            return Err("`no_target` is false, but `ann_id` names no object: expected numbers".to_owned());
        }
        _ => {}
    }
    if ann_ids.iter().collect::<BTreeSet<_>>().len() != ann_ids.len() {
        return Err(format!("`ann_id` names an annotation twice: {ann_ids:?}"));
    }
    let expression = |RawSentence { sent_id, sent, raw }: RawSentence| {
        let raw = raw.unwrap_or_else(|| sent.clone());
        Expression { sent_id, sent, raw, flavour: None }
    };
    Ok(Ref {
        ref_id: raw.ref_id,
        ann_ids,
        image_id: raw.image_id,
        category_ids,
        split: raw.split,
        expressions: raw.sentences.into_iter().map(expression).collect(),
    })
}
