//! COCO's `instances_*.json`.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use refcoco::{read_json, whole_number};
use serde_json::Value;

use super::labelled::{
    Found, Labelled, LabelledMask, files_below, find_picture, is_picture, name_below, recorded_size,
    similar_picture, split_of_path,
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
    without_repetitions(&mut found);
    Ok(found)
}

/// Leaves out objects that another file has, too, as COCO's own files of instances and of keypoints have the same people.
fn without_repetitions(found: &mut Found) {
    let mut seen = BTreeSet::new();
    let objects = std::mem::take(&mut found.objects);
    for object in objects {
        let mask = match &object.mask {
            LabelledMask::Coco(value) => value.to_string(),
            LabelledMask::File(path) => path.display().to_string(),
        };
        match seen.insert((object.picture.clone(), object.category.clone(), mask)) {
            true => found.objects.push(object),
            false => found.leave_out("annotations that repeat another one's mask and category"),
        }
    }
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

/// Where pictures are looked for.
struct Pictures {
    folders: Vec<PathBuf>,
    /// Pictures anywhere below the folders of pictures, by file name; made when a name is found nowhere else.
    by_name: OnceCell<BTreeMap<String, Vec<(PathBuf, String)>>>,
}

impl Pictures {
    /// - images: folder of the pictures; by default that of the file, and a folder `images` in or beside it
    fn of(path: &Path, images: Option<&PathBuf>) -> Self {
        let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
        let folders = match images {
            Some(images) => vec![images.clone()],
            None => vec![folder.clone(), folder.join("images"), folder.join("../images"), folder.join("..")],
        };
        Self { folders, by_name: OnceCell::new() }
    }

    /// The file of a name, and its name below the folder where it lies.
    ///
    /// # Errors
    /// When there is none, or when folders have several of the name.
    fn find(&self, named: &str) -> Result<(PathBuf, String)> {
        if let Some(found) = find_picture(&self.folders, named) {
            return Ok(found);
        }
        let named = named.replace('\\', "/");
        let base = named.rsplit('/').next().unwrap_or_default();
        match self.by_name().get(base).map(Vec::as_slice) {
            Some([(path, name)]) => Ok((path.clone(), name.clone())),
            Some([(one, _), (other, _), ..]) => bail!(
                "`{named}` may be {} or {}; write its folder in front of the name",
                one.display(),
                other.display()
            ),
            _ => bail!(
                "there is no picture `{named}` in {}{}; say where they are with --images DIR",
                self.folders[0].display(),
                similar_picture(&self.folders, &named)
            ),
        }
    }

    fn by_name(&self) -> &BTreeMap<String, Vec<(PathBuf, String)>> {
        self.by_name.get_or_init(|| {
            // The file's own folder may be anything.
            let is_of_pictures = |folder: &&PathBuf| self.folders.len() == 1 || folder.ends_with("images");
            let mut found: BTreeMap<String, Vec<(PathBuf, String)>> = BTreeMap::new();
            for folder in self.folders.iter().filter(is_of_pictures).filter(|folder| folder.is_dir()) {
                for path in
                    files_below(folder).unwrap_or_default().into_iter().filter(|path| is_picture(path))
                {
                    let base = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    let files = found.entry(base).or_default();
                    let is_known = |(known, _): &(PathBuf, String)| {
                        known.canonicalize().ok() == path.canonicalize().ok()
                    };
                    if !files.iter().any(is_known) {
                        files.push((path.clone(), name_below(&path, folder)));
                    }
                }
            }
            found
        })
    }
}

/// The records of the images that are asked for. Others may lack their picture.
fn records(
    document: &Value,
    path: &Path,
    images: Option<&PathBuf>,
    is_asked_for: impl Fn(i64) -> bool,
) -> Result<BTreeMap<i64, Record>> {
    let pictures = Pictures::of(path, images);
    let mut records = BTreeMap::new();
    for image in list(document, "images", path)? {
        let (Some(id), Some(named)) = (whole_number(&image["id"]), image["file_name"].as_str()) else {
            continue;
        };
        if !is_asked_for(id) {
            continue;
        }
        let (picture, name) =
            pictures.find(named).with_context(|| format!("{}: image {id}", path.display()))?;
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
    let record =
        |value: &Value| Some((whole_number(&value["id"])?, value["name"].as_str()?.trim().to_owned()));
    match &document["categories"] {
        Value::Array(records) => records.iter().filter_map(record).collect(),
        Value::Object(entries) => entries
            .iter()
            .filter_map(|(id, name)| Some((id.parse().ok()?, name.as_str()?.trim().to_owned())))
            .collect(),
        _ => BTreeMap::new(),
    }
}

fn one_file(path: &Path, images: Option<&PathBuf>) -> Result<Found> {
    let document = read_json(path)?;
    let annotations = list(&document, "annotations", path)?;
    let is_empty = |annotation: &Value| {
        let segmentation = &annotation["segmentation"];
        segmentation.is_null() || segmentation.as_array().is_some_and(Vec::is_empty)
    };
    let with_mask = annotations.iter().filter(|annotation| !is_empty(annotation));
    let asked_for: BTreeSet<i64> =
        with_mask.filter_map(|annotation| whole_number(&annotation["image_id"])).collect();
    let records = records(&document, path, images, |id| asked_for.contains(&id))?;
    let categories = categories(&document);
    let split = split_of_path(&path.file_name().unwrap_or_default().to_string_lossy());
    let mut n_of_id: BTreeMap<i64, usize> = BTreeMap::new();
    for id in annotations.iter().filter_map(|annotation| whole_number(&annotation["id"])) {
        *n_of_id.entry(id).or_default() += 1;
    }
    let mut found = Found::default();
    for annotation in annotations {
        let segmentation = &annotation["segmentation"];
        if is_empty(annotation) {
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
        // Converters often number badly, which matters to a table of expressions alone.
        let number = whole_number(&annotation["id"]).filter(|id| n_of_id.get(id) == Some(&1));
        if number.is_none() {
            found.note("annotations have no id, or share it with another one: --expressions cannot name them by ann_id");
        }
        if category.is_none() {
            found.note("annotations have a category that `categories` does not list: only --expressions can ask for them");
        }
        found.objects.push(Labelled {
            picture: record.picture.clone(),
            name: record.name.clone(),
            mask: LabelledMask::Coco(segmentation.clone()),
            category: category.cloned(),
            expressions: Vec::new(),
            recorded: record.size,
            number,
            split: split.clone(),
            crowd: whole_number(&annotation["iscrowd"]) == Some(1) || annotation["iscrowd"] == true,
        });
    }
    Ok(found)
}
