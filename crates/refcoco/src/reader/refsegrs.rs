//! RefSegRS: `output_phrase_SPLIT.txt` with one `ID EXPRESSION` a line; the image is `images/ID.tif`, the mask `masks/ID.tif`.

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;

use crate::annotation::{Annotation, Expression, ImageRecord, Ref};
use crate::error::{Error, Result, io_error, or_mistaken};
use crate::image_file::image_size;
use crate::reader::{Instances, json_raw};
use crate::regular_file::read_regular;

const PREFIX: &str = "output_phrase_";
const SUFFIX: &str = ".txt";
/// The published extension, and those into which people convert.
const EXTENSIONS: [&str; 5] = ["tif", "tiff", "png", "jpg", "jpeg"];

/// Reads every `output_phrase_SPLIT.txt` of a folder; `SPLIT` becomes the split's name. The set has no categories, so an object has
/// no distractors.
///
/// # Errors
/// Names the file and the line: no expression behind the id, an image that is missing or unreadable.
pub(crate) fn read_refsegrs(folder: &Path) -> Result<(Vec<Ref>, Instances)> {
    let mut lines = Vec::new();
    for (split, path) in phrase_files(folder)? {
        let bytes = read_regular(&path)?;
        for (index, line) in file_kind::without_mark(&bytes).split(|byte| *byte == b'\n').enumerate() {
            let record = || format!("line {}", index + 1);
            let fail = |what: &str| {
                let what = what.to_owned();
                or_mistaken(&path, Error::Record { path: path.clone(), record: record(), what })
            };
            let line = std::str::from_utf8(line)
                .map_err(|_| fail("it is not UTF-8: save the file as UTF-8"))?
                .trim();
            if line.is_empty() {
                continue;
            }
            let Some((id, expression)) = line.split_once(char::is_whitespace) else {
                return Err(fail("expected an image id, a space and an expression"));
            };
            if id.contains(['/', '\\']) {
                return Err(fail("the image id must be no path"));
            }
            lines.push((split.clone(), id.to_owned(), expression.trim().to_owned()));
        }
    }
    let mut image_ids: BTreeMap<&str, i64> = BTreeMap::new();
    for (_, id, _) in &lines {
        let next = image_ids.len() as i64 + 1;
        image_ids.entry(id).or_insert(next);
    }
    let found: Vec<Result<(i64, ImageRecord, Annotation)>> =
        image_ids.par_iter().map(|(&name, &id)| object(folder, name, id)).collect();
    let mut instances = Instances::default();
    for found in found {
        let (id, image, annotation) = found?;
        instances.images.insert(id, image);
        instances.annotations.insert(id, annotation);
    }
    let refs = (1..).zip(&lines).map(|(number, (split, name, expression))| {
        let id = image_ids[name.as_str()];
        let expressions = vec![Expression {
            sent_id: number,
            sent: expression.clone(),
            raw: expression.clone(),
            flavour: None,
        }];
        Ref {
            ref_id: number,
            ann_ids: vec![id],
            image_id: id,
            category_ids: vec![-id],
            split: split.clone(),
            expressions,
        }
    });
    Ok((refs.collect(), instances))
}

/// Splits with their files, in the order of training, validation, test.
fn phrase_files(folder: &Path) -> Result<Vec<(String, std::path::PathBuf)>> {
    let entries = std::fs::read_dir(folder).map_err(io_error(folder))?;
    let mut files: Vec<(String, std::path::PathBuf)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name().into_string().ok()?;
            let split = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.to_owned();
            Some((split, entry.path()))
        })
        .collect();
    let rank = |split: &str| ["train", "val", "test"].iter().position(|known| *known == split).unwrap_or(3);
    files.sort_by_key(|(split, _)| (rank(split), split.clone()));
    Ok(files)
}

/// The image of this name and its one object, which share the id.
fn object(folder: &Path, name: &str, id: i64) -> Result<(i64, ImageRecord, Annotation)> {
    let in_folder = |kind: &str| {
        let names = EXTENSIONS.iter().map(|extension| format!("{kind}/{name}.{extension}"));
        names.into_iter().find(|path| folder.join(path).is_file()).unwrap_or(format!("{kind}/{name}.tif"))
    };
    let file_name = in_folder("images");
    let (width, height) = image_size(&folder.join(&file_name))?;
    let image = ImageRecord { id, file_name, width, height };
    let segmentation = json_raw(&serde_json::Value::String(in_folder("masks")))?;
    // A unique negative category, so that no two objects share one.
    Ok((id, image, Annotation { id, image_id: id, category_id: -id, is_crowd: false, segmentation }))
}
