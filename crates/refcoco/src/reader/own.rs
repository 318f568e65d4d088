//! The user's own data: one JSONL file with one object per line. Paths are relative to the file's folder.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rayon::prelude::*;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::annotation::{Annotation, Expression, ImageRecord, Ref};
use crate::error::{Error, Result};
use crate::file_spelling::{spellings, stays_inside};
use crate::image_file::image_size;
use crate::jsonl::read_lines;
use crate::reader::{Instances, in_one_line};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    image: String,
    mask: Box<RawValue>,
    expressions: Vec<String>,
    category: Option<String>,
    split: Option<String>,
    ref_id: Option<i64>,
    sent_ids: Option<Vec<i64>>,
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
/// # Errors
/// Names the file and the line: malformed JSON, missing or unknown key, a path that leaves the folder, an image that is missing
/// or unreadable, an id used twice. Empty lines are skipped.
pub fn read_own(path: &Path) -> Result<(Vec<Ref>, Instances)> {
    let fail = |number: usize, what: String| at_line(path, number, what);
    let mut lines: Vec<(usize, Line)> = Vec::new();
    for line in read_lines(path)? {
        let (number, line) = line?;
        let parsed = serde_json::from_str(&line).map_err(|error| fail(number, in_one_line(&error)))?;
        lines.push((number, parsed));
    }

    let mut image_ids: BTreeMap<&str, (i64, usize)> = BTreeMap::new();
    for (number, line) in &lines {
        let next = image_ids.len() as i64 + 1;
        image_ids.entry(&line.image).or_insert((next, *number));
    }
    let images = image_records(path, &image_ids)?;
    let names: BTreeSet<&str> = lines.iter().filter_map(|(_, line)| line.category.as_deref()).collect();
    let category_ids: BTreeMap<&str, i64> = names.into_iter().zip(1..).collect();
    let (mut refs, mut annotations) = (Vec::new(), BTreeMap::new());
    let (mut seen, mut n_sentences) = (BTreeSet::new(), 0);
    for (number, line) in &lines {
        let ref_id = line.ref_id.unwrap_or(*number as i64);
        if !seen.insert(ref_id) {
            return Err(fail(*number, format!("ref_id {ref_id} occurs twice")));
        }
        let sent_ids = line.sent_ids(n_sentences + 1).map_err(|what| fail(*number, what))?;
        n_sentences += line.expressions.len() as i64;
        let ann_id = *number as i64;
        // A unique negative id, so that no two objects without a category share one.
        let category_id = line.category.as_deref().map_or(-ann_id, |name| category_ids[name]);
        let (image_id, _) = image_ids[line.image.as_str()];
        let has_target = line.mask.get() != "null";
        if has_target {
            let segmentation = line.mask.clone();
            let annotation = Annotation { id: ann_id, image_id, category_id, is_crowd: false, segmentation };
            annotations.insert(ann_id, annotation);
        }
        if line.expressions.is_empty() {
            continue;
        }
        let expressions = sent_ids.into_iter().zip(&line.expressions);
        let expressions =
            expressions.map(|(sent_id, text)| Expression { sent_id, sent: text.clone(), raw: text.clone() });
        refs.push(Ref {
            ref_id,
            ann_ids: has_target.then_some(ann_id).into_iter().collect(),
            image_id,
            category_ids: has_target.then_some(category_id).into_iter().collect(),
            split: line.split.clone().unwrap_or_else(|| "train".to_owned()),
            expressions: expressions.collect(),
        });
    }
    let categories = category_ids.into_iter().map(|(name, id)| (id, name.to_owned())).collect();
    Ok((refs, Instances { images, annotations, categories, ..Instances::default() }))
}

impl Line {
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

fn at_line(path: &Path, number: usize, what: String) -> Error {
    Error::Record { path: path.to_path_buf(), record: format!("line {number}"), what }
}

/// Reads the size of each image from its file's header.
///
/// - image_ids: for each image name, its id and the first line that names it
fn image_records(
    path: &Path,
    image_ids: &BTreeMap<&str, (i64, usize)>,
) -> Result<BTreeMap<i64, ImageRecord>> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let record = |(name, &(id, number)): (&&str, &(i64, usize))| {
        if !stays_inside(name) {
            let what = format!("image `{name}` does not stay inside the file's folder");
            return Err(at_line(path, number, what));
        }
        let paths: Vec<_> = spellings(name).iter().map(|name| folder.join(name)).collect();
        let path = paths.iter().find(|path| path.exists()).unwrap_or(&paths[0]);
        let (width, height) = image_size(path)?;
        Ok((id, ImageRecord { id, file_name: (*name).to_owned(), width, height }))
    };
    image_ids.par_iter().map(record).collect()
}
