//! The user's own data: one JSONL file with one object per line. Paths are relative to the file's folder.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::annotation::{Annotation, Expression, ImageRecord, Ref};
use crate::error::{Error, Result};
use crate::file_spelling::{MAX_PATH, SHOWN, is_web_address, shortened, stays_inside};
use crate::image_file::image_size;
use crate::image_source::ImageSource;
use crate::jsonl::read_lines;
use crate::reader::lenient::{flag, text_or_null, texts, whole_list, whole_or_null};
use crate::reader::{Instances, Unusable, in_one_line};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with `image`, `mask` and `expressions`")]
struct Line {
    image: String,
    #[serde(default, deserialize_with = "present")]
    mask: Option<Box<RawValue>>,
    #[serde(deserialize_with = "texts")]
    expressions: Vec<String>,
    #[serde(default, deserialize_with = "text_or_null")]
    category: Option<String>,
    #[serde(default, deserialize_with = "text_or_null")]
    split: Option<String>,
    #[serde(default, deserialize_with = "whole_or_null")]
    ref_id: Option<i64>,
    #[serde(default, deserialize_with = "whole_list")]
    sent_ids: Option<Vec<i64>>,
    /// As typed; `expressions` by default.
    raw: Option<Vec<String>>,
    #[serde(default, deserialize_with = "whole_or_null")]
    ann_id: Option<i64>,
    #[serde(default, deserialize_with = "whole_list")]
    ann_ids: Option<Vec<i64>>,
    #[serde(default, deserialize_with = "whole_or_null")]
    image_id: Option<i64>,
    #[serde(default, deserialize_with = "whole_or_null")]
    category_id: Option<i64>,
    #[serde(default, deserialize_with = "flag")]
    crowd: bool,
}

/// A value that is there, even if it is null.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

/// Reads a JSONL file of the user's own data. Each line is one object in an image:
///
/// ```json
/// {"image": "street.jpg", "mask": "street_car.png", "expressions": ["the red car"], "category": "car", "split": "val"}
/// ```
///
/// - `image`: path below the file's folder
/// - `mask`: path of a PNG below the file's folder, a polygon, a list of polygons, a COCO RLE object, or null for expressions
///   without a target
/// - `expressions`: may be empty for an object that only serves as a distractor
/// - `category`: optional; objects without one have no distractors
/// - `split`: `train` by default
/// - `ref_id`: by default the line number
/// - `sent_ids`: by default the running number of each expression in the file, from 1
///
/// These keys are for sets that were something else before, so that nothing is lost:
///
/// - `ann_id`: id of the object, by default the line number; lines of one image that name the same id are one object, and so are lines
///   without it that have the same mask and category
/// - `ann_ids`: ids of objects in other lines, in place of `mask`: the expressions ask for all of them together
/// - `raw`: the expressions as typed; `image_id`, `category_id`: numbers of image and category
/// - `crowd`: true for an object that marks a crowd, which is no distractor
///
/// # Errors
/// Names the file and the line: malformed JSON, missing or unknown key, a path that leaves the folder, an image that is missing
/// or unreadable, an id used twice. Empty lines are skipped.
pub fn read_own(path: &Path) -> Result<(Vec<Ref>, Instances)> {
    let fail = |number: usize, what: String| at_line(path, number, what);
    let lines = parsed_lines(path)?;
    if lines.is_empty() {
        let what = "it holds no line with an object: it is empty".to_owned();
        return Err(Error::Record { path: path.to_path_buf(), record: "the file".into(), what });
    }
    let source = ImageSource::folder(path.parent().unwrap_or(Path::new("")));
    let image_ids = image_ids(path, &lines, &source)?;
    let (images, unreadable) = image_records(path, &image_ids, &source)?;
    let category_ids = category_ids(path, &lines)?;
    let object_ids = object_ids(&lines, &image_ids);
    let (mut refs, mut annotations) = (Vec::new(), BTreeMap::<i64, Annotation>::new());
    let mut annotation_lines: BTreeMap<i64, usize> = BTreeMap::new();
    let (mut seen, mut n_sentences) = (BTreeSet::new(), 0);
    for ((number, line), object_id) in lines.iter().zip(object_ids) {
        let ref_id = line.ref_id.unwrap_or(*number as i64);
        let is_ref = !line.expressions.is_empty();
        if is_ref && !seen.insert(ref_id) {
            return Err(fail(*number, format!("ref_id {ref_id} occurs twice")));
        }
        let sent_ids = line.sent_ids(n_sentences + 1).map_err(|what| fail(*number, what))?;
        n_sentences += line.expressions.len() as i64;
        let (image_id, _) = image_ids[line.image.as_str()];
        if let Some(annotation) = line.annotation(object_id, image_id, &category_ids) {
            let id = annotation.id;
            let first = annotation_lines.entry(id).or_insert(*number);
            if let Some(known) = annotations.insert(id, annotation)
                && let Some(what) = differs(&known, &annotations[&id])
            {
                return Err(fail(*number, format!("ann_id {id} has another {what} than in line {first}")));
            }
        } else if line.mask.is_none() && line.ann_ids.is_none() {
            return Err(fail(
                *number,
                "missing field `mask`; it may be null for expressions without a target".into(),
            ));
        }
        if is_ref {
            refs.push((
                *number,
                line.reference(object_id, ref_id, image_id, &sent_ids).map_err(|what| fail(*number, what))?,
            ));
        }
    }
    // Objects may stand behind the lines that name them.
    for (number, reference) in &mut refs {
        for ann_id in &reference.ann_ids {
            let Some(annotation) =
                annotations.get(ann_id).filter(|found| found.image_id == reference.image_id)
            else {
                return Err(fail(*number, format!("no line of this image has ann_id {ann_id}")));
            };
            reference.category_ids.push(annotation.category_id);
        }
    }
    let categories = category_ids.into_iter().map(|(name, id)| (id, name.to_owned())).collect();
    let refs = refs.into_iter().map(|(_, reference)| reference).collect();
    let unusable = Unusable { images: unreadable, ..Unusable::default() };
    Ok((refs, Instances { images, annotations, categories, unusable }))
}

/// The lines, each with its number.
///
/// # Errors
/// Names the first malformed line, with what is wrong in it, and the numbers of the others.
fn parsed_lines(path: &Path) -> Result<Vec<(usize, Line)>> {
    let mut lines: Vec<(usize, Line)> = Vec::new();
    let mut malformed: Vec<(usize, String)> = Vec::new();
    for line in read_lines(path)? {
        let (number, line) = line?;
        match serde_json::from_str(&line) {
            Ok(line) => lines.push((number, line)),
            Err(error) => malformed.push((number, in_one_line(&error))),
        }
    }
    match &malformed[..] {
        [] => Ok(lines),
        [(number, what)] => Err(at_line(path, *number, what.clone())),
        [(number, what), others @ ..] => {
            let shown: Vec<String> = others.iter().take(10).map(|(number, _)| number.to_string()).collect();
            let more = if others.len() > shown.len() { ", ..." } else { "" };
            let n = others.len();
            let what = format!("{what}; malformed, too: {n} more, in line {}{more}", shown.join(", "));
            Err(at_line(path, *number, what))
        }
    }
}

/// In what two descriptions of one object differ.
fn differs(one: &Annotation, other: &Annotation) -> Option<&'static str> {
    let value = |annotation: &Annotation| {
        serde_json::from_str::<serde_json::Value>(annotation.segmentation.get()).unwrap_or_default()
    };
    match () {
        () if one.image_id != other.image_id => Some("image"),
        () if one.category_id != other.category_id => Some("category"),
        () if value(one) != value(other) => Some("mask"),
        () => None,
    }
}

/// An id for each image name, and the first line that names it. Names of one file, such as `a.png` and `./a.png`, share an id.
fn image_ids<'a>(
    path: &Path,
    lines: &'a [(usize, Line)],
    images: &ImageSource,
) -> Result<BTreeMap<&'a str, (i64, usize)>> {
    let mut files: BTreeMap<&str, PathBuf> = BTreeMap::new();
    for (_, line) in lines {
        files.entry(&line.image).or_insert_with(|| images.path(&line.image));
    }
    let mut of_file: BTreeMap<&Path, i64> = BTreeMap::new();
    let mut ids: BTreeMap<&str, (i64, usize)> = BTreeMap::new();
    let mut names: BTreeMap<i64, &Path> = BTreeMap::new();
    let given: BTreeSet<i64> = lines.iter().filter_map(|(_, line)| line.image_id).collect();
    let mut free = (1..).filter(|id| !given.contains(id));
    for (number, line) in lines {
        let file = files[line.image.as_str()].as_path();
        let id = *of_file
            .entry(file)
            .or_insert_with(|| line.image_id.unwrap_or_else(|| free.next().unwrap_or_default()));
        ids.entry(&line.image).or_insert((id, *number));
        if *names.entry(id).or_insert(file) != file || line.image_id.is_some_and(|given| given != id) {
            let what = format!("image_id {} is another image's", line.image_id.unwrap_or(id));
            return Err(at_line(path, *number, what));
        }
    }
    Ok(ids)
}

/// The id of each line's object: its `ann_id`, by default the line's number. Lines without `ann_id` whose image, mask and category are
/// those of an earlier line are about the same object, as in files with one line per expression.
fn object_ids(lines: &[(usize, Line)], image_ids: &BTreeMap<&str, (i64, usize)>) -> Vec<i64> {
    let mut first: BTreeMap<(i64, &str, Option<&str>, bool), i64> = BTreeMap::new();
    let mut ids = Vec::with_capacity(lines.len());
    for (number, line) in lines {
        let own = line.ann_id.unwrap_or(*number as i64);
        let id = match &line.mask {
            Some(mask) if mask.get() != "null" => {
                let image_id = image_ids[line.image.as_str()].0;
                let key = (image_id, mask.get(), line.category.as_deref(), line.crowd);
                let known = *first.entry(key).or_insert(own);
                if line.ann_id.is_some() { own } else { known }
            }
            _ => own,
        };
        ids.push(id);
    }
    ids
}

/// An id for each category name.
fn category_ids<'a>(path: &Path, lines: &'a [(usize, Line)]) -> Result<BTreeMap<&'a str, i64>> {
    let mut ids: BTreeMap<&str, i64> = BTreeMap::new();
    for (number, line) in lines {
        let (Some(name), Some(id)) = (line.category.as_deref(), line.category_id) else { continue };
        let other = ids.iter().any(|(other, other_id)| *other_id == id && *other != name);
        if other || *ids.entry(name).or_insert(id) != id {
            return Err(at_line(path, *number, format!("category_id {id} is another category's")));
        }
    }
    let names: BTreeSet<&str> = lines.iter().filter_map(|(_, line)| line.category.as_deref()).collect();
    let given: BTreeSet<i64> = ids.values().copied().collect();
    let mut free = (1..).filter(|id| !given.contains(id));
    for name in names {
        ids.entry(name).or_insert_with(|| free.next().unwrap_or_default());
    }
    Ok(ids)
}

impl Line {
    /// The line's object; `None` if it has none.
    fn annotation(&self, id: i64, image_id: i64, category_ids: &BTreeMap<&str, i64>) -> Option<Annotation> {
        let mask = self.mask.as_ref().filter(|mask| mask.get() != "null")?;
        let segmentation = segmentation_of_text(mask).unwrap_or_else(|| mask.clone());
        // A unique negative id, so that no two objects without a category share one.
        let category_id = self.category.as_deref().map_or(-id, |name| category_ids[name]);
        Some(Annotation { id, image_id, category_id, is_crowd: self.crowd, segmentation })
    }

    /// The line's ref, still without categories.
    ///
    /// - object_id: id of the line's object, if it has one
    fn reference(&self, object_id: i64, ref_id: i64, image_id: i64, sent_ids: &[i64]) -> Result<Ref, String> {
        let has_object = self.mask.as_ref().is_some_and(|mask| mask.get() != "null");
        let ann_ids = match (&self.ann_ids, has_object) {
            (Some(_), true) => return Err("`mask` and `ann_ids` exclude each other".to_owned()),
            (Some(ids), false) => ids.clone(),
            (None, true) => vec![object_id],
            (None, false) => Vec::new(),
        };
        let raw = self.raw.as_ref().unwrap_or(&self.expressions);
        if raw.len() != self.expressions.len() {
            return Err(format!("{} `raw` for {} expressions", raw.len(), self.expressions.len()));
        }
        let texts = sent_ids.iter().zip(&self.expressions).zip(raw);
        let expressions = texts.map(|((&sent_id, sent), raw)| Expression {
            sent_id,
            sent: sent.clone(),
            raw: raw.clone(),
            flavour: None,
        });
        Ok(Ref {
            ref_id,
            ann_ids,
            image_id,
            category_ids: Vec::new(),
            split: self.split.as_deref().map_or_else(|| "train".to_owned(), split_name),
            expressions: expressions.collect(),
        })
    }

    /// Ids of the line's expressions: its `sent_ids`, by default the numbers from `next` on.
    fn sent_ids(&self, next: i64) -> Result<Vec<i64>, String> {
        let n = self.expressions.len();
        match &self.sent_ids {
            Some(ids) if ids.len() == n => Ok(ids.clone()),
            Some(ids) => Err(format!("{} `sent_ids` for {n} expressions", ids.len())),
            None => Ok((next..).take(n).collect()),
        }
    }
}

/// A polygon or RLE that stands as text in `mask`, as tables have it; `None` for anything else.
fn segmentation_of_text(mask: &RawValue) -> Option<Box<RawValue>> {
    let text: String = serde_json::from_str(mask.get()).ok()?;
    let text = text.trim();
    text.starts_with(['[', '{']).then(|| RawValue::from_string(text.to_owned()).ok())?
}

/// A split's name, without white space around it; the usual names in any case, and their usual other forms.
fn split_name(written: &str) -> String {
    let name = written.trim();
    let known = match name.to_ascii_lowercase().as_str() {
        "train" | "training" => "train",
        "val" | "valid" | "validation" | "dev" => "val",
        "test" | "testing" => "test",
        "testa" => "testA",
        "testb" => "testB",
        _ => name,
    };
    known.to_owned()
}

fn at_line(path: &Path, number: usize, what: String) -> Error {
    Error::Record { path: path.to_path_buf(), record: format!("line {number}"), what }
}

/// Why there is no image of this name.
fn why_missing(name: &str, images: &ImageSource) -> String {
    match name {
        name if is_web_address(name) => {
            "this is a web address: fetch the picture, and name the file".to_owned()
        }
        name if name.starts_with("data:") => {
            "this is a data URL: save the picture as a file, and name that".to_owned()
        }
        name if name.len() > MAX_PATH => "no file can have so long a name".to_owned(),
        name => images.missing(name).to_string(),
    }
}

/// Images by id, and those whose file cannot be read with the reason.
type Images = (BTreeMap<i64, ImageRecord>, BTreeMap<i64, String>);

/// Reads the size of each image from its file's header.
///
/// - image_ids: for each image name, its id and the first line that names it
fn image_records(
    path: &Path,
    image_ids: &BTreeMap<&str, (i64, usize)>,
    images: &ImageSource,
) -> Result<Images> {
    let record = |(name, &(id, number)): (&&str, &(i64, usize))| {
        if !stays_inside(name) {
            let what = format!("image `{}` does not stay inside the file's folder", shortened(name, SHOWN));
            return Err(at_line(path, number, what));
        }
        let file = images.path(name);
        let size = image_size(&file).map_err(|error| match error {
            Error::Io { .. } if !file.exists() => {
                format!("line {number}: image `{}`: {}", shortened(name, SHOWN), why_missing(name, images))
            }
            other => format!("line {number}: {other}"),
        });
        let record =
            size.map(|(width, height)| ImageRecord { id, file_name: (*name).to_owned(), width, height });
        Ok((id, record))
    };
    let read: Vec<_> = image_ids.par_iter().map(record).collect::<Result<_>>()?;
    let (mut records, mut unreadable) = (BTreeMap::new(), BTreeMap::new());
    for (id, record) in read {
        match record {
            Ok(record) => drop(records.insert(id, record)),
            Err(why) => drop(unreadable.insert(id, why)),
        }
    }
    Ok((records, unreadable))
}
