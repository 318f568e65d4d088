//! `grefs(unc).json`, the refs of gRefCOCO: expressions with none, one or several targets.

use std::collections::BTreeSet;
use std::fmt::Formatter;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::annotation::{Expression, Ref};
use crate::error::{Error, Result};
use crate::reader::in_one_line;
use crate::regular_file::read_regular;

#[derive(Deserialize)]
struct RawRef {
    ref_id: i64,
    image_id: i64,
    ann_id: Ids,
    category_id: Ids,
    split: String,
    sentences: Vec<RawSentence>,
    #[serde(default)]
    no_target: bool,
}

/// A number, a list of numbers, or null.
struct Ids(Vec<i64>);

impl Ids {
    /// -1 stands for "no object".
    fn into_objects(self) -> Vec<i64> {
        self.0.into_iter().filter(|&id| id != -1).collect()
    }
}

/// By hand, because an untagged enum keeps a copy of the list that takes eight times as much.
impl<'de> Deserialize<'de> for Ids {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(IdsVisitor)
    }
}

struct IdsVisitor;

impl<'de> Visitor<'de> for IdsVisitor {
    type Value = Ids;

    fn expecting(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a number, a list of numbers, or null")
    }

    fn visit_i64<E: serde::de::Error>(self, id: i64) -> Result<Ids, E> {
        Ok(Ids(vec![id]))
    }

    fn visit_u64<E: serde::de::Error>(self, id: u64) -> Result<Ids, E> {
        i64::try_from(id).map(|id| Ids(vec![id])).map_err(|_| E::custom("a number beyond 2^63"))
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Ids, E> {
        Ok(Ids(Vec::new()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Ids, A::Error> {
        let mut ids = Vec::new();
        while let Some(id) = list.next_element()? {
            ids.push(id);
        }
        Ok(Ids(ids))
    }
}

#[derive(Deserialize)]
struct RawSentence {
    sent_id: i64,
    sent: String,
    #[serde(default)]
    raw: Option<String>,
}

/// Reads a `grefs(...).json`, in the order of the file. A ref without target has no annotations: in the file its
/// `ann_id` is `[-1]` and `no_target` is true.
///
/// # Errors
/// Names the file and the ref at fault: malformed JSON (with its position), missing key, wrong type, `no_target` for a
/// ref that has targets, an annotation named twice, a ref id used twice.
pub fn read_grefs(path: &Path) -> Result<Vec<Ref>> {
    let text = read_regular(path)?;
    let items: Vec<&RawValue> =
        serde_json::from_slice(&text).map_err(|source| Error::Json { path: path.to_path_buf(), source })?;
    let mut seen = BTreeSet::new();
    let mut refs = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        let fail = |record: String, what: String| Error::Record { path: path.to_path_buf(), record, what };
        let raw: RawRef = serde_json::from_str(item.get())
            .map_err(|error| fail(format!("ref number {index}"), in_one_line(&error)))?;
        let record = format!("ref_id {}", raw.ref_id);
        if !seen.insert(raw.ref_id) {
            return Err(fail(record, "this ref_id occurs twice".into()));
        }
        refs.push(convert(raw).map_err(|what| fail(record, what))?);
    }
    Ok(refs)
}

fn convert(raw: RawRef) -> Result<Ref, String> {
    let (ann_ids, category_ids) = (raw.ann_id.into_objects(), raw.category_id.into_objects());
    if raw.no_target && !ann_ids.is_empty() {
        return Err(format!("`no_target` is true, but `ann_id` names {ann_ids:?}"));
    }
    if ann_ids.iter().collect::<BTreeSet<_>>().len() != ann_ids.len() {
        return Err(format!("`ann_id` names an annotation twice: {ann_ids:?}"));
    }
    let expression = |RawSentence { sent_id, sent, raw }: RawSentence| {
        let raw = raw.unwrap_or_else(|| sent.clone());
        Expression { sent_id, sent, raw }
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
