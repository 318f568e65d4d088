//! `instances.json`, the images and annotations of the REFER layout.

use std::collections::BTreeMap;
use std::io::BufReader;
use std::path::Path;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::annotation::{Annotation, ImageRecord};
use crate::error::{Error, Result};
use crate::regular_file::open_regular;

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
    let file = open_regular(path)?;
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
