//! Checks a whole data set and lists everything that is wrong with it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rayon::prelude::*;
use serde::Serialize;

use crate::dataset::Dataset;
use crate::descriptor::Descriptor;
use crate::error::{Error, Result};
use crate::image_file::is_cut_short;
use crate::problem::Problem;

/// What was checked, and what was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// Refs checked.
    pub refs: usize,
    /// Images that refs are in; all were decoded.
    pub images: usize,
    /// Annotations in these images; all were turned into masks.
    pub masks: usize,
    /// Those of them that refs point at.
    pub targets: usize,
    /// Refs per split.
    pub splits: BTreeMap<String, usize>,
    /// Whether every split holds what the published files hold; `None` if nothing is published.
    pub complete: Option<bool>,
    /// What makes the set unusable, at least in part.
    pub errors: Vec<Problem>,
    /// What a user should know.
    pub warnings: Vec<Problem>,
}

/// Checks every ref, annotation, mask and image of a data set, in parallel. `progress` is called with the number of
/// images done and of all images, from any thread.
///
/// # Errors
/// When the files cannot be read at all; anything wrong with single records is part of the result.
pub fn verify(
    descriptor: Descriptor,
    data_root: &Path,
    progress: impl Fn(usize, usize) + Sync,
) -> Result<Verification> {
    let (dataset, mut errors) = Dataset::open_leniently(descriptor, data_root)?;
    let mut warnings = Vec::new();
    refs(&dataset, &mut errors, &mut warnings);
    annotations(&dataset, &mut errors);
    splits(&dataset, &mut errors, &mut warnings);

    let images: BTreeSet<i64> = dataset.refs.iter().map(|reference| reference.image_id).collect();
    let known: Vec<i64> =
        images.iter().copied().filter(|id| dataset.instances.images.contains_key(id)).collect();
    let done = std::sync::atomic::AtomicUsize::new(0);
    let checked: Vec<(Option<Problem>, Option<Problem>)> = known
        .par_iter()
        .map(|&id| {
            let found = image(&dataset, id);
            progress(done.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1, known.len());
            found
        })
        .collect();
    for (error, warning) in checked {
        errors.extend(error);
        warnings.extend(warning);
    }
    let targets: BTreeSet<i64> =
        dataset.refs.iter().flat_map(|reference| &reference.ann_ids).copied().collect();
    // What points at nothing is listed already.
    let masks: Vec<i64> = images.iter().flat_map(|&id| dataset.annotations_in_image(id)).copied().collect();
    let masks: Vec<i64> = masks.into_iter().filter(|id| has_image(&dataset, *id)).collect();
    let found: Vec<(i64, Problem)> = masks.par_iter().filter_map(|&id| mask(&dataset, id)).collect();
    for (id, problem) in found {
        // An object that no ref asks for can only spoil the count of distractors.
        if targets.contains(&id) { &mut errors } else { &mut warnings }.push(problem);
    }
    errors.sort();
    warnings.sort();

    let counts = dataset.ref_counts().into_iter().map(|(split, n)| (split.to_owned(), n)).collect();
    let expected = &dataset.descriptor.expected_refs;
    Ok(Verification {
        refs: dataset.refs.len(),
        images: known.len(),
        masks: masks.len(),
        targets: targets.len(),
        complete: (!expected.is_empty()).then_some(*expected == counts),
        splits: counts,
        errors,
        warnings,
    })
}

fn refs(dataset: &Dataset, errors: &mut Vec<Problem>, warnings: &mut Vec<Problem>) {
    let mut sentences: BTreeMap<i64, i64> = BTreeMap::new();
    for reference in &dataset.refs {
        let problem = |what: String| Problem { record: format!("ref_id {}", reference.ref_id), what };
        if reference.expressions.is_empty() {
            warnings.push(problem("it has no expression, so it is never trained or evaluated on".into()));
        }
        for expression in &reference.expressions {
            if expression.sent.trim().is_empty() {
                errors.push(problem(format!("expression {} is empty", expression.sent_id)));
            }
            if let Some(other) = sentences.insert(expression.sent_id, reference.ref_id) {
                let what = format!("sent_id {} is used by ref_id {other} too", expression.sent_id);
                warnings.push(problem(what));
            }
        }
        for ann_id in &reference.ann_ids {
            if let Some(annotation) = dataset.instances.annotations.get(ann_id)
                && !reference.category_ids.contains(&annotation.category_id)
            {
                warnings.push(problem(format!(
                    "it is of category {:?}, but its annotation {ann_id} of {}",
                    reference.category_ids, annotation.category_id
                )));
            }
        }
    }
}

/// Annotations whose image has no record.
fn annotations(dataset: &Dataset, errors: &mut Vec<Problem>) {
    for annotation in dataset.instances.annotations.values() {
        if !has_image(dataset, annotation.id) {
            let what = format!("its image {} has no record", annotation.image_id);
            errors.push(Problem { record: format!("annotation {}", annotation.id), what });
        }
    }
}

fn has_image(dataset: &Dataset, ann_id: i64) -> bool {
    let annotation = dataset.instances.annotations.get(&ann_id);
    annotation.is_some_and(|annotation| dataset.instances.images.contains_key(&annotation.image_id))
}

fn splits(dataset: &Dataset, errors: &mut Vec<Problem>, warnings: &mut Vec<Problem>) {
    let mut of_image: BTreeMap<i64, BTreeSet<&str>> = BTreeMap::new();
    for reference in &dataset.refs {
        of_image.entry(reference.image_id).or_default().insert(&reference.split);
    }
    let shared: Vec<(i64, String)> = of_image
        .into_iter()
        .filter(|(_, splits)| splits.len() > 1)
        .map(|(image, splits)| (image, splits.into_iter().collect::<Vec<_>>().join(", ")))
        .collect();
    if dataset.descriptor.splits_share_images {
        if !shared.is_empty() {
            let what =
                format!("{} images are in more than one split, by design of this data set", shared.len());
            warnings.push(Problem { record: "splits".into(), what });
        }
    } else {
        errors.extend(shared.into_iter().map(|(image, splits)| Problem {
            record: format!("image {image}"),
            what: format!("it is in more than one split: {splits}"),
        }));
    }
    let known: Vec<&String> = [&dataset.descriptor.val].into_iter().chain(&dataset.descriptor.test).collect();
    for split in dataset.splits() {
        if split != "train" && !known.iter().any(|known| *known == split) {
            let what = "the refs of this split belong to no known split of this data set".to_owned();
            warnings.push(Problem { record: format!("split `{split}`"), what });
        }
    }
}

fn image(dataset: &Dataset, id: i64) -> (Option<Problem>, Option<Problem>) {
    let problem = |what: String| Problem { record: format!("image {id}"), what };
    let decoded = dataset
        .image_bytes(id)
        .and_then(|bytes| dataset.decode_image_file(id, &bytes, Vec::new()).map(|_| is_cut_short(&bytes)));
    match decoded {
        Err(error) => (Some(problem(error.to_string())), None),
        Ok(cut) => {
            (None, cut.then(|| problem("the JPEG has no end marker: part of it may be missing".into())))
        }
    }
}

fn mask(dataset: &Dataset, ann_id: i64) -> Option<(i64, Problem)> {
    let what = match dataset.mask(ann_id) {
        Err(Error::Segmentation { source, .. }) => source.to_string(),
        Err(error) => error.to_string(),
        Ok(mask) if mask.area() == 0 => "its mask is empty".into(),
        Ok(_) => return None,
    };
    Some((ann_id, Problem { record: format!("annotation {ann_id}"), what }))
}
