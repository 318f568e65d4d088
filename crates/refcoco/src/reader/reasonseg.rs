//! ReasonSeg: folders `train`, `val`, `test`, each with `NAME.jpg` and `NAME.json`. The JSON holds the query and polygons.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::annotation::{Annotation, Expression, ImageRecord, Ref};
use crate::error::{Error, Result, io_error, or_mistaken};
use crate::image_file::image_size;
use crate::reader::{Instances, in_one_line, json_raw};
use crate::regular_file::read_regular;

const IMAGE_EXTENSIONS: [&str; 4] = ["jpg", "jpeg", "png", "webp"];

#[derive(Deserialize)]
struct Document {
    text: Texts,
    shapes: Vec<Box<RawValue>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Several(Vec<String>),
}

/// Reads the folders of a data set; each becomes a split. Outside `train` only the first query of an image counts, as in LISA's
/// evaluation. The polygons are painted when a mask is asked for ([`Mask::from_segmentation`](crate::Mask::from_segmentation)).
///
/// # Errors
/// Names the file at fault: malformed JSON, a missing key, no image of its name, an image that cannot be read.
pub(crate) fn read_reasonseg(folder: &Path) -> Result<(Vec<Ref>, Instances)> {
    let mut files = Vec::new();
    for split in ["train", "val", "test"] {
        let mut names = json_files(&folder.join(split))?;
        names.sort();
        files.extend(names.into_iter().map(|name| (split, name)));
    }
    let read: Vec<Result<(Ref, ImageRecord, Annotation)>> = files
        .into_par_iter()
        .enumerate()
        .map(|(index, (split, name))| read_one(folder, split, &name, index as i64 + 1))
        .collect();
    let (mut refs, mut instances) = (Vec::new(), Instances::default());
    for read in read {
        let (reference, image, annotation) = read?;
        instances.images.insert(image.id, image);
        instances.annotations.insert(annotation.id, annotation);
        refs.push(reference);
    }
    let mut sent_ids = 1..;
    for expression in refs.iter_mut().flat_map(|reference| &mut reference.expressions) {
        expression.sent_id = sent_ids.next().unwrap_or_default();
    }
    Ok((refs, instances))
}

/// Names without extension of a folder's JSON files; none if there is no such folder.
fn json_files(folder: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error(folder)(error)),
    };
    let names = entries.filter_map(|entry| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        Some(name.strip_suffix(".json")?.to_owned())
    });
    Ok(names.collect())
}

fn read_one(folder: &Path, split: &str, name: &str, id: i64) -> Result<(Ref, ImageRecord, Annotation)> {
    let path = folder.join(split).join(format!("{name}.json"));
    let bytes = read_regular(&path)?;
    let text = western_text(file_kind::without_mark(&bytes));
    let fail = |what: String| {
        or_mistaken(&path, Error::Record { path: path.clone(), record: "the file".into(), what })
    };
    let Document { text, shapes } = serde_json::from_str(&text).map_err(|error| fail(in_one_line(&error)))?;
    let texts = match text {
        Texts::One(text) => vec![text],
        Texts::Several(texts) => texts,
    };
    let n = if split == "train" { texts.len() } else { 1 };
    let image_name = IMAGE_EXTENSIONS
        .iter()
        .map(|extension| format!("{split}/{name}.{extension}"))
        .find(|file| folder.join(file).is_file())
        .ok_or_else(|| fail(format!("there is no image {name}.jpg beside it")))?;
    let (width, height) = image_size(&PathBuf::from(folder).join(&image_name))?;
    let expression = |text: String| Expression { sent_id: 0, sent: text.clone(), raw: text, flavour: None };
    let reference = Ref {
        ref_id: id,
        ann_ids: vec![id],
        image_id: id,
        category_ids: vec![-id],
        split: split.to_owned(),
        expressions: texts.into_iter().take(n).map(expression).collect(),
    };
    let shapes: Vec<serde_json::Value> =
        shapes.iter().map(|shape| serde_json::from_str(shape.get()).unwrap_or_default()).collect();
    let segmentation = json_raw(&serde_json::json!({ "shapes": shapes }))?;
    let annotation = Annotation { id, image_id: id, category_id: -id, is_crowd: false, segmentation };
    Ok((reference, ImageRecord { id, file_name: image_name, width, height }, annotation))
}

/// Text in UTF-8, or in Windows-1252, in which some of the published files are written.
fn western_text(bytes: &[u8]) -> String {
    /// What Windows-1252 has at 0x80 to 0x9F.
    const OTHERS: &str = "€\u{81}‚ƒ„…†‡ˆ‰Š‹Œ\u{8d}Ž\u{8f}\u{90}‘’“”•–—˜™š›œ\u{9d}žŸ";
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes
            .iter()
            .map(|&byte| match byte {
                0x80..=0x9f => OTHERS.chars().nth(usize::from(byte) - 0x80).unwrap_or('?'),
                byte => char::from(byte),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_windows() {
        assert_eq!(western_text("naïve".as_bytes()), "naïve");
        assert_eq!(western_text(b"the dog\x92s \xe9"), "the dog’s é");
    }
}
