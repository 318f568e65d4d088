//! COCO's `instances_*.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use refcoco::{read_json, whole_number};
use serde_json::Value;

use super::labelled::{
    Found, Labelled, LabelledMask, files_below, find_picture, name_below, recorded_size, split_of_path,
};

/// Reads a file of COCO's instances, or every such file below a folder, as Roboflow writes one beside each split's pictures.
///
/// - images: folder of the pictures; by default that of the file, and a folder `images` in or beside it
pub(super) fn coco(path: &Path, images: Option<&PathBuf>) -> Result<Found> {
    if !path.is_dir() {
        return one_file(path, images);
    }
    let mut found = Found::default();
    for file in files_below(path)?.iter().filter(|file| is_coco(file)) {
        let mut one = one_file(file, images)?;
        // Pictures of one name in several folders.
        let below = file.parent().map(|folder| name_below(folder, path)).unwrap_or_default();
        if !below.is_empty() && file.parent() != Some(path) {
            for object in &mut one.objects {
                object.name = format!("{below}/{}", object.name);
                object.split = split_of_path(&object.name);
            }
        }
        found.extend(one);
    }
    Ok(found)
}

/// Whether a file is COCO's JSON, by its keys.
pub(super) fn is_coco(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "json")
        && read_json(path)
            .is_ok_and(|document| document["annotations"].is_array() && document["images"].is_array())
}

/// A picture's record.
struct Record {
    picture: PathBuf,
    name: String,
    size: Option<(usize, usize)>,
}

fn records(document: &Value, path: &Path, images: Option<&PathBuf>) -> Result<BTreeMap<i64, Record>> {
    let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
    let folders = match images {
        Some(images) => vec![images.clone()],
        None => vec![folder.clone(), folder.join("images"), folder.join("../images"), folder.join("..")],
    };
    let mut records = BTreeMap::new();
    for image in list(document, "images", path)? {
        let (Some(id), Some(named)) = (whole_number(&image["id"]), image["file_name"].as_str()) else {
            continue;
        };
        let (picture, name) = find_picture(&folders, named).with_context(|| {
            format!(
                "{}: image {id}: there is no picture `{named}` in {}; say where they are with --images DIR",
                path.display(),
                folders[0].display()
            )
        })?;
        let size = recorded_size(&image["width"], &image["height"]);
        records.insert(id, Record { picture, name, size });
    }
    Ok(records)
}

fn list<'a>(document: &'a Value, key: &str, path: &Path) -> Result<&'a Vec<Value>> {
    document[key].as_array().with_context(|| format!("{}: it has no list `{key}`", path.display()))
}

/// Names of categories, from a list of records or from an object `{"1": "dog"}`.
fn categories(document: &Value) -> BTreeMap<i64, String> {
    let record = |value: &Value| Some((whole_number(&value["id"])?, value["name"].as_str()?.to_owned()));
    match &document["categories"] {
        Value::Array(records) => records.iter().filter_map(record).collect(),
        Value::Object(entries) => entries
            .iter()
            .filter_map(|(id, name)| Some((id.parse().ok()?, name.as_str()?.to_owned())))
            .collect(),
        _ => BTreeMap::new(),
    }
}

fn one_file(path: &Path, images: Option<&PathBuf>) -> Result<Found> {
    let document = read_json(path)?;
    let (records, categories) = (records(&document, path, images)?, categories(&document));
    let split = split_of_path(&path.file_name().unwrap_or_default().to_string_lossy());
    let mut found = Found::default();
    for annotation in list(&document, "annotations", path)? {
        let segmentation = &annotation["segmentation"];
        if segmentation.is_null() || segmentation.as_array().is_some_and(Vec::is_empty) {
            found.leave_out("annotations without a segmentation");
            continue;
        }
        let image_id = whole_number(&annotation["image_id"]).with_context(|| {
            format!(
                "{}: annotation {}: `image_id` is missing or no whole number",
                path.display(),
                annotation["id"]
            )
        })?;
        let Some(record) = records.get(&image_id) else {
            found.leave_out("annotations whose image has no record");
            continue;
        };
        let category = whole_number(&annotation["category_id"]).and_then(|id| categories.get(&id));
        found.objects.push(Labelled {
            picture: record.picture.clone(),
            name: record.name.clone(),
            mask: LabelledMask::Coco(segmentation.clone()),
            category: category.cloned(),
            expressions: Vec::new(),
            recorded: record.size,
            number: whole_number(&annotation["id"]),
            split: split.clone(),
            crowd: whole_number(&annotation["iscrowd"]) == Some(1) || annotation["iscrowd"] == true,
        });
    }
    Ok(found)
}
