//! COCO's `instances_*.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use refcoco::{read_json, whole_number};

use super::labelled::{Found, Labelled, LabelledMask, split_of_path};

/// Reads a file of COCO's instances.
///
/// - images: folder of the pictures; by default that of the file
pub(super) fn coco(path: &Path, images: Option<&PathBuf>) -> Result<Found> {
    let document = read_json(path)?;
    let list = |key: &str| {
        document[key].as_array().with_context(|| format!("{}: it has no list `{key}`", path.display()))
    };
    let folder = images.map_or_else(|| path.parent().unwrap_or(Path::new("")).to_path_buf(), Clone::clone);
    let mut names = BTreeMap::new();
    for image in list("images")? {
        if let (Some(id), Some(name)) = (whole_number(&image["id"]), image["file_name"].as_str()) {
            names.insert(id, name.replace('\\', "/"));
        }
    }
    let categories: BTreeMap<i64, &str> = list("categories")?
        .iter()
        .filter_map(|category| Some((whole_number(&category["id"])?, category["name"].as_str()?)))
        .collect();
    let split = split_of_path(&path.file_name().unwrap_or_default().to_string_lossy());
    let mut found = Found::default();
    for annotation in list("annotations")? {
        let at = || format!("{}: annotation {}", path.display(), annotation["id"]);
        let segmentation = &annotation["segmentation"];
        if segmentation.is_null() || segmentation.as_array().is_some_and(Vec::is_empty) {
            found.leave_out("annotations without a segmentation");
            continue;
        }
        let image_id = whole_number(&annotation["image_id"]).with_context(at);
        let image_id = image_id.context("`image_id` is missing or no whole number")?;
        let name = names.get(&image_id).with_context(at).context("its image has no record")?;
        let category = whole_number(&annotation["category_id"]).and_then(|id| categories.get(&id));
        found.objects.push(Labelled {
            picture: folder.join(name),
            name: name.clone(),
            mask: LabelledMask::Coco(segmentation.clone()),
            category: category.map(|name| (*name).to_owned()),
            expressions: Vec::new(),
            number: whole_number(&annotation["id"]),
            split: split.clone(),
            crowd: whole_number(&annotation["iscrowd"]) == Some(1) || annotation["iscrowd"] == true,
        });
    }
    for object in &found.objects {
        ensure!(
            object.picture.is_file(),
            "{}: there is no such picture; say where they are with --images DIR",
            object.picture.display()
        );
    }
    Ok(found)
}
