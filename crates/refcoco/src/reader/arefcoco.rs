//! aRefCOCO: `arefcoco.json` has the expressions; the objects are those of RefCOCO (UNC) and RefCOCOg (UMD), by their ref id.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::annotation::{Expression, Ref};
use crate::error::{Error, Result, or_mistaken};
use crate::reader::lenient::{whole, whole_or_null};
use crate::reader::{Instances, in_one_line, read_instances, read_refs};
use crate::regular_file::read_regular;

/// The two sets: what `original_dataset` begins with, folder below the data root, refs file.
const SETS: [(&str, &str, &str); 2] =
    [("refcoco", "refcoco", "refs(unc).p"), ("refcocog", "refcocog", "refs(umd).p")];

#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    annotations: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Record {
    #[serde(default, deserialize_with = "whole_or_null")]
    entity_id: Option<i64>,
    #[serde(deserialize_with = "whole")]
    ref_id: i64,
    original_dataset: String,
    #[serde(default)]
    split: Option<String>,
    descriptions: Vec<String>,
}

/// Reads an `arefcoco.json`. The ids of its refs are `entity_id`, or the place in the file where that is missing or used twice.
///
/// # Errors
/// Names the file and the record: malformed JSON, another `original_dataset`, a ref id that the original set lacks; or what is
/// wrong with the original sets' files.
pub(crate) fn read_arefcoco(path: &Path, data_root: &Path) -> Result<(Vec<Ref>, Instances)> {
    let bytes = read_regular(path)?;
    let document: Document<'_> = serde_json::from_slice(file_kind::without_mark(&bytes))
        .map_err(|source| or_mistaken(path, Error::Json { path: path.to_path_buf(), source }))?;
    let fail = |index: usize, what: String| Error::Record {
        path: path.to_path_buf(),
        record: format!("annotation number {}", index + 1),
        what,
    };
    let mut records: Vec<(usize, Record)> = Vec::new();
    for (index, text) in document.annotations.into_iter().enumerate() {
        let mut record: Record =
            serde_json::from_str(text.get()).map_err(|error| fail(index, in_one_line(&error)))?;
        record.original_dataset.make_ascii_lowercase();
        let set = SETS.iter().rposition(|(name, ..)| record.original_dataset.starts_with(name));
        let set = set.filter(|_| !record.original_dataset.starts_with("refcoco+")).ok_or_else(|| {
            fail(
                index,
                format!("original_dataset is `{}`, expected refcoco or refcocog", record.original_dataset),
            )
        })?;
        records.push((set, record));
    }
    let mut instances = Instances::default();
    let mut originals: Vec<BTreeMap<i64, Ref>> = Vec::new();
    for (set, (_, folder, refs)) in SETS.iter().enumerate() {
        let mut by_id = BTreeMap::new();
        if records.iter().any(|(of, _)| *of == set) {
            let folder = data_root.join(folder);
            let refs = read_refs(&folder.join(refs))?;
            let moved = instances.merge(read_instances(&folder.join("instances.json"))?);
            by_id.extend(refs.into_iter().map(|reference| (reference.ref_id, moved.apply(reference))));
        }
        originals.push(by_id);
    }
    let entities: Vec<i64> = records.iter().filter_map(|(_, record)| record.entity_id).collect();
    let are_ids =
        entities.len() == records.len() && entities.iter().collect::<BTreeSet<_>>().len() == records.len();
    let (mut refs, mut n_sentences) = (Vec::new(), 0);
    for (index, (set, record)) in records.into_iter().enumerate() {
        let original = originals[set].get(&record.ref_id).ok_or_else(|| {
            let (name, _, file) = SETS[set];
            fail(index, format!("{name}'s {file} has no ref_id {}", record.ref_id))
        })?;
        let expressions = record.descriptions.into_iter().map(|text| {
            n_sentences += 1;
            Expression { sent_id: n_sentences, sent: text.clone(), raw: text, flavour: None }
        });
        refs.push(Ref {
            ref_id: record.entity_id.filter(|_| are_ids).unwrap_or(index as i64 + 1),
            // The file's first version had the test split alone.
            split: record.split.unwrap_or_else(|| "test".to_owned()),
            expressions: expressions.collect(),
            ..original.clone()
        });
    }
    Ok((refs, instances))
}
