//! Readers of the two files of the REFER layout: `refs(...).p` and `instances.json`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use safe_pickle::Value;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::annotation::{Annotation, Expression, ImageRecord, Ref};
use crate::error::{Error, Result, io_error};

/// Reads a `refs(...).p` pickle of any protocol, in the order of the file. Nothing in it is executed.
///
/// # Errors
/// Names the file and the ref at fault: unreadable pickle, wrong type, missing key, ref id used twice.
pub fn read_refs(path: &Path) -> Result<Vec<Ref>> {
    let data = std::fs::read(path).map_err(io_error(path))?;
    let document =
        safe_pickle::parse(&data).map_err(|source| Error::Pickle { path: path.to_path_buf(), source })?;
    let fail = |record: String, what: String| Error::Record { path: path.to_path_buf(), record, what };
    let root = document.root();
    let items = root.items().filter(|_| root.is_list());
    let items = items.ok_or_else(|| {
        fail("top level".into(), format!("must be a list of refs, found a {}", root.type_name()))
    })?;
    let mut refs = Vec::with_capacity(items.len());
    let mut seen = BTreeMap::new();
    for (index, item) in items.enumerate() {
        let record = match item.get("ref_id").and_then(Value::as_i64) {
            Some(ref_id) => format!("ref_id {ref_id}"),
            None => format!("ref number {index}"),
        };
        let parsed = parse_ref(item).map_err(|what| fail(record.clone(), what))?;
        if seen.insert(parsed.ref_id, index).is_some() {
            return Err(fail(record, "this ref_id occurs twice".into()));
        }
        refs.push(parsed);
    }
    Ok(refs)
}

fn parse_ref(item: Value<'_>) -> Result<Ref, String> {
    if item.pairs().is_none() {
        return Err(format!("a ref must be a dict, found a {}", item.type_name()));
    }
    let sentences = field(item, "sentences")?;
    let sentences = sentences
        .items()
        .ok_or_else(|| format!("`sentences` must be a list, found a {}", sentences.type_name()))?;
    let expressions = sentences.map(|sentence| {
        let sent = text(sentence, "sent")?;
        let raw = match sentence.get("raw") {
            Some(_) => text(sentence, "raw")?,
            None => sent.clone(),
        };
        Ok(Expression { sent_id: int(sentence, "sent_id")?, sent, raw })
    });
    Ok(Ref {
        ref_id: int(item, "ref_id")?,
        ann_id: int(item, "ann_id")?,
        image_id: int(item, "image_id")?,
        category_id: int(item, "category_id")?,
        split: text(item, "split")?,
        expressions: expressions.collect::<Result<_, String>>()?,
    })
}

fn field<'a>(item: Value<'a>, key: &str) -> Result<Value<'a>, String> {
    item.get(key).ok_or_else(|| format!("key `{key}` is missing"))
}

fn int(item: Value<'_>, key: &str) -> Result<i64, String> {
    let value = field(item, key)?;
    value.as_i64().ok_or_else(|| format!("`{key}` must be an int, found a {}", value.type_name()))
}

fn text(item: Value<'_>, key: &str) -> Result<String, String> {
    let value = field(item, key)?;
    value
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| format!("`{key}` must be text, found a {}", value.type_name()))
}

/// What an `instances.json` holds, by number.
#[derive(Debug)]
pub struct Instances {
    /// Images by id.
    pub images: BTreeMap<i64, ImageRecord>,
    /// Annotations by id.
    pub annotations: BTreeMap<i64, Annotation>,
    /// Category names by id.
    pub categories: BTreeMap<i64, String>,
}

#[derive(Deserialize)]
struct RawInstances {
    images: Vec<RawImage>,
    annotations: Vec<RawAnnotation>,
    #[serde(default)]
    categories: Vec<RawCategory>,
}

#[derive(Deserialize)]
struct RawImage {
    id: i64,
    file_name: String,
    width: usize,
    height: usize,
}

#[derive(Deserialize)]
struct RawAnnotation {
    id: i64,
    image_id: i64,
    category_id: i64,
    #[serde(default)]
    iscrowd: u8,
    segmentation: Box<RawValue>,
}

#[derive(Deserialize)]
struct RawCategory {
    id: i64,
    name: String,
}

/// Reads an `instances.json`. The file is parsed as a stream; segmentations are kept as text until used.
///
/// # Errors
/// Names the file and the record: malformed JSON (with its position), an annotation or image id used twice.
pub fn read_instances(path: &Path) -> Result<Instances> {
    let file = File::open(path).map_err(io_error(path))?;
    let raw: RawInstances = serde_json::from_reader(BufReader::with_capacity(1 << 20, file))
        .map_err(|source| Error::Json { path: path.to_path_buf(), source })?;
    let twice = |record: String| Error::Record {
        path: path.to_path_buf(),
        record,
        what: "this id occurs twice".into(),
    };
    let mut images = BTreeMap::new();
    for RawImage { id, file_name, width, height } in raw.images {
        if images.insert(id, ImageRecord { id, file_name, width, height }).is_some() {
            return Err(twice(format!("image {id}")));
        }
    }
    let mut annotations = BTreeMap::new();
    for RawAnnotation { id, image_id, category_id, iscrowd, segmentation } in raw.annotations {
        let annotation = Annotation { id, image_id, category_id, is_crowd: iscrowd != 0, segmentation };
        if annotations.insert(id, annotation).is_some() {
            return Err(twice(format!("annotation {id}")));
        }
    }
    let categories = raw.categories.into_iter().map(|category| (category.id, category.name)).collect();
    Ok(Instances { images, annotations, categories })
}
