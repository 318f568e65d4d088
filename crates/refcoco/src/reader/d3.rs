//! D-cube (D3): four pickles, `sentences.pkl`, `annotations.pkl`, `images.pkl` and `groups.pkl`, each a dict by id.

use std::collections::BTreeMap;
use std::path::Path;

use safe_pickle::Value;

use super::pickled::{entry, json, parsed, text, whole};
use crate::annotation::{Annotation, Expression, ImageRecord, Ref};
use crate::error::{Error, Result, or_mistaken};
use crate::reader::{Instances, json_raw};
use crate::regular_file::read_regular;

/// Reads the four pickles of a folder. Each image is asked each sentence of its group (the intra-group setting); what matches is
/// the target, which may be nothing or several objects. Sentences of presence are the split `pres`, those of absence `abs`; both
/// together are the paper's FULL. The category of an object is its group; a ref's id is 1000 times its image's plus its sentence's.
///
/// # Errors
/// Names the file and the record: unreadable pickle, missing key, wrong type, a sentence or group that does not exist.
pub(crate) fn read_d3(folder: &Path) -> Result<(Vec<Ref>, Instances)> {
    let mut instances = Instances::default();
    let sentences = records(&folder.join("sentences.pkl"), |sentence| {
        let negative = entry(sentence, "is_negative");
        let negative = negative.and_then(|flag| flag.as_bool().or_else(|| whole(flag).map(|flag| flag != 0)));
        Ok((string(sentence, "raw_sent")?, negative.ok_or("`is_negative` must be a bool")?))
    })?;
    let groups = records(&folder.join("groups.pkl"), |group| {
        let name = string(group, "group_name").unwrap_or_default();
        Ok((name, whole_numbers(group, "inner_sent_id")?))
    })?;
    instances.categories = groups.iter().map(|(&id, (name, _))| (id, name.clone())).collect();
    let images = folder.join("images.pkl");
    let group_of = records(&images, |image| int(image, "group_id"))?;
    instances.images = records(&images, |image| {
        let (width, height) = (int(image, "width")?, int(image, "height")?);
        Ok(ImageRecord {
            id: int(image, "id")?,
            file_name: string(image, "file_name")?,
            width: usize::try_from(width).map_err(|_| format!("width {width}"))?,
            height: usize::try_from(height).map_err(|_| format!("height {height}"))?,
        })
    })?;
    let annotated = records(&folder.join("annotations.pkl"), |annotation| {
        let image_id = int(annotation, "image_id")?;
        let segmentation =
            entry(annotation, "segmentation").and_then(json).ok_or("`segmentation` is missing")?;
        let record = Annotation {
            id: int(annotation, "id")?,
            image_id,
            category_id: group_of.get(&image_id).copied().unwrap_or(-1),
            is_crowd: int(annotation, "iscrowd").unwrap_or(0) != 0,
            segmentation: json_raw(&segmentation).map_err(|error| error.to_string())?,
        };
        Ok((record, whole_numbers(annotation, "sent_id")?))
    })?;
    let mut matching: BTreeMap<(i64, i64), Vec<i64>> = BTreeMap::new();
    for (annotation, sent_ids) in annotated.into_values() {
        for sent_id in sent_ids {
            matching.entry((annotation.image_id, sent_id)).or_default().push(annotation.id);
        }
        instances.annotations.insert(annotation.id, annotation);
    }
    let mut refs = Vec::new();
    for (image_id, group_id) in group_of {
        let missing = |file: &str, what: String| Error::Record {
            path: folder.join(file),
            record: format!("image {image_id}"),
            what,
        };
        let (_, sent_ids) = groups
            .get(&group_id)
            .ok_or_else(|| missing("images.pkl", format!("there is no group {group_id}")))?;
        for &sent_id in sent_ids {
            let (sentence, is_absence) = sentences.get(&sent_id).ok_or_else(|| {
                missing(
                    "groups.pkl",
                    format!("group {group_id} has sentence {sent_id}, which does not exist"),
                )
            })?;
            let ann_ids = matching.get(&(image_id, sent_id)).cloned().unwrap_or_default();
            refs.push(Ref {
                ref_id: image_id.saturating_mul(1000).saturating_add(sent_id),
                category_ids: vec![group_id; ann_ids.len()],
                ann_ids,
                image_id,
                split: if *is_absence { "abs" } else { "pres" }.to_owned(),
                expressions: vec![Expression {
                    sent_id: refs.len() as i64 + 1,
                    sent: sentence.clone(),
                    raw: sentence.clone(),
                    flavour: None,
                }],
            });
        }
    }
    Ok((refs, instances))
}

/// The values of a pickled dict by id.
fn records<T>(path: &Path, read: impl Fn(Value<'_>) -> Result<T, String>) -> Result<BTreeMap<i64, T>> {
    let data = read_regular(path)?;
    let document = parsed(&data)
        .map_err(|source| or_mistaken(path, Error::Pickle { path: path.to_path_buf(), source }))?;
    let fail = |record: String, what: String| Error::Record { path: path.to_path_buf(), record, what };
    let root = document.root();
    let pairs = root.pairs().ok_or_else(|| {
        fail("top level".into(), format!("must be a dict of records by id, found a {}", root.type_name()))
    })?;
    pairs
        .enumerate()
        .map(|(index, (key, value))| {
            let id = whole(key)
                .ok_or_else(|| fail(format!("record number {index}"), "its key is no whole number".into()))?;
            Ok((id, read(value).map_err(|what| fail(format!("record {id}"), what))?))
        })
        .collect()
}

fn int(item: Value<'_>, key: &str) -> Result<i64, String> {
    entry(item, key).and_then(whole).ok_or_else(|| format!("`{key}` must be a whole number"))
}

fn string(item: Value<'_>, key: &str) -> Result<String, String> {
    entry(item, key).and_then(text).ok_or_else(|| format!("`{key}` must be text"))
}

fn whole_numbers(item: Value<'_>, key: &str) -> Result<Vec<i64>, String> {
    let list = entry(item, key).and_then(Value::items).ok_or_else(|| format!("`{key}` must be a list"))?;
    list.map(|value| whole(value).ok_or_else(|| format!("`{key}` must hold whole numbers"))).collect()
}
