//! Checks a whole data set and lists every problem.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use serde::Serialize;

use crate::annotation::ImageRecord;
use crate::clip_tokenizer::ClipTokenizer;
use crate::dataset::Dataset;
use crate::descriptor::{AnnotationFormat, Descriptor};
use crate::error::{Error, Result};
use crate::image_file::{ExifTurn, is_cut_short};
use crate::mask::{Mask, polygons_of};
use crate::mask_file::{Levels, background_is_light, levels, lossy_format};
use crate::picture_key::{PictureKey, picture_keys};
use crate::problem::Problem;
use crate::tokenizer::Tokenizer;

/// Counts of what was checked, and the problems found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// Number of refs checked.
    pub refs: usize,
    /// Number of images that refs are in; all were decoded.
    pub images: usize,
    /// Number of annotations in these images; all were converted to masks.
    pub masks: usize,
    /// Number of annotations that are targets of refs.
    pub targets: usize,
    /// Number of refs per split.
    pub splits: BTreeMap<String, usize>,
    /// Whether the refs per split match the published counts; `None` if none are published.
    pub complete: Option<bool>,
    /// Problems that make the data set unusable, at least in part.
    pub errors: Vec<Problem>,
    /// Lesser problems that a user should know about.
    pub warnings: Vec<Problem>,
}

/// Checks every ref, annotation, mask and image of a data set, in parallel. `progress` is called from any thread with the
/// number of images done and the total.
///
/// # Errors
/// When the files cannot be read at all. Problems of single records are part of the result.
pub fn verify(
    descriptor: Descriptor,
    data_root: &Path,
    progress: impl Fn(usize, usize) + Sync,
) -> Result<Verification> {
    let (dataset, mut errors) = Dataset::open_leniently(descriptor, data_root)?;
    let mut warnings = Vec::new();
    refs(&dataset, &mut errors, &mut warnings);
    let targets: BTreeSet<i64> =
        dataset.refs.iter().flat_map(|reference| &reference.ann_ids).copied().collect();
    annotations(&dataset, &targets, &mut errors, &mut warnings);
    if dataset.refs.is_empty() {
        errors.push(Problem { record: "refs".into(), what: "there are none".into() });
    }
    let unusable = dataset.instances.unusable.iter();
    warnings
        .extend(unusable.map(|(record, why)| Problem { record, what: format!("it cannot be used: {why}") }));
    splits(&dataset, &mut errors, &mut warnings);
    cut_expressions(&dataset, &mut warnings)?;

    let images: BTreeSet<i64> = dataset.refs.iter().map(|reference| reference.image_id).collect();
    let known: Vec<i64> =
        images.iter().copied().filter(|id| dataset.instances.images.contains_key(id)).collect();
    let mut turned = BTreeMap::new();
    for (id, checked) in known.iter().zip(check_images(&dataset, &known, progress)) {
        errors.extend(checked.error);
        warnings.extend(checked.warning);
        if checked.turn != ExifTurn::None {
            turned.insert(*id, checked.turn);
        }
    }
    if !turned.is_empty() && dataset.descriptor.format != AnnotationFormat::Own {
        let first: Vec<String> = turned.keys().take(3).map(i64::to_string).collect();
        let what = format!(
            "{} have an EXIF orientation that turns or mirrors them (images {}{}), which is applied: their masks must be those of \
             the turned pictures",
            turned.len(),
            first.join(", "),
            if turned.len() > 3 { ", ..." } else { "" }
        );
        warnings.push(Problem { record: "pictures".into(), what });
    }
    // Annotations without an image record are listed as errors already.
    let masks: Vec<i64> = images.iter().flat_map(|&id| dataset.annotations_in_image(id)).copied().collect();
    let masks: Vec<i64> = masks.into_iter().filter(|id| has_image(&dataset, *id)).collect();
    let found: Vec<(i64, Option<Problem>, Option<Problem>)> =
        masks.par_iter().map(|&id| mask(&dataset, id, &turned)).collect();
    for (id, problem, odd) in found {
        // A bad mask of an object that no ref asks for only costs a distractor.
        if targets.contains(&id) { &mut errors } else { &mut warnings }.extend(problem);
        warnings.extend(odd);
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

/// What was found about an image's file.
struct CheckedImage {
    error: Option<Problem>,
    warning: Option<Problem>,
    turn: ExifTurn,
}

/// Decodes images in parallel.
fn check_images(dataset: &Dataset, ids: &[i64], progress: impl Fn(usize, usize) + Sync) -> Vec<CheckedImage> {
    let done = AtomicUsize::new(0);
    let check = |&id: &i64| {
        let found = image(dataset, id);
        progress(done.fetch_add(1, Ordering::Relaxed) + 1, ids.len());
        found
    };
    ids.par_iter().map(check).collect()
}

fn refs(dataset: &Dataset, errors: &mut Vec<Problem>, warnings: &mut Vec<Problem>) {
    let mut sentences: BTreeMap<i64, i64> = BTreeMap::new();
    for reference in &dataset.refs {
        let problem = |what: String| Problem { record: format!("ref_id {}", reference.ref_id), what };
        if reference.expressions.is_empty() {
            warnings.push(problem("it has no expression, so it is never trained or evaluated on".into()));
        }
        let mut own = BTreeSet::new();
        for expression in &reference.expressions {
            if !own.insert(expression.sent_id) {
                let what = format!(
                    "it has sent_id {} twice, so that its predictions cannot be told apart",
                    expression.sent_id
                );
                errors.push(problem(what));
                continue;
            }
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

/// Reports annotations whose image has no record.
fn annotations(
    dataset: &Dataset,
    targets: &BTreeSet<i64>,
    errors: &mut Vec<Problem>,
    warnings: &mut Vec<Problem>,
) {
    for annotation in dataset.instances.annotations.values() {
        if !has_image(dataset, annotation.id) {
            let image_id = annotation.image_id;
            let what = format!("its image {image_id} {}", dataset.instances.unusable.why_no_image(image_id));
            let problem = Problem { record: format!("annotation {}", annotation.id), what };
            if targets.contains(&annotation.id) { &mut *errors } else { &mut *warnings }.push(problem);
        }
    }
}

fn has_image(dataset: &Dataset, ann_id: i64) -> bool {
    let annotation = dataset.instances.annotations.get(&ann_id);
    annotation.is_some_and(|annotation| dataset.instances.images.contains_key(&annotation.image_id))
}

fn splits(dataset: &Dataset, errors: &mut Vec<Problem>, warnings: &mut Vec<Problem>) {
    let of_image = splits_by_image(dataset);
    same_pictures(dataset, &of_image, errors);
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
    let val = &dataset.descriptor.val;
    if !dataset.refs.is_empty() && !dataset.has_validation_split() {
        let what = format!("there is no split `{val}`, so no model can be selected on this data set");
        warnings.push(Problem { record: "splits".into(), what });
    }
    let misspelt = dataset.splits().into_iter().find(|split| {
        let name = split.trim();
        *split != "train" && (name.eq_ignore_ascii_case("train") || name.eq_ignore_ascii_case("training"))
    });
    if let (Some(split), false) = (misspelt, dataset.splits().contains(&"train")) {
        let what = "training looks for the split `train`".to_owned();
        errors.push(Problem { record: format!("split `{split}`"), what });
    } else if !dataset.refs.is_empty() && !dataset.refs.iter().any(|reference| reference.split == "train") {
        let what = "there is no split `train`: the data set is for evaluation alone".to_owned();
        warnings.push(Problem { record: "splits".into(), what });
    }
    let known: Vec<&String> = [&dataset.descriptor.val].into_iter().chain(&dataset.descriptor.test).collect();
    for split in dataset.splits() {
        if split != "train" && !known.iter().any(|known| *known == split) {
            let what = "the refs of this split belong to no known split of this data set".to_owned();
            warnings.push(Problem { record: format!("split `{split}`"), what });
        }
    }
}

/// Expressions that CLIP's tokenizer gives more tokens than the data set's word length.
fn cut_expressions(dataset: &Dataset, warnings: &mut Vec<Problem>) -> Result<()> {
    let (tokenizer, word_len) = (ClipTokenizer::new()?, dataset.descriptor.word_len);
    let all: Vec<usize> = (0..dataset.refs.len()).collect();
    let is_cut = |text: &str| tokenizer.encode(text).is_ok_and(|ids| ids.len() > word_len);
    let cut: Vec<String> = all
        .par_iter()
        .flat_map_iter(|&index| {
            let reference = &dataset.refs[index];
            let cut = reference.expressions.iter().filter(|expression| is_cut(&expression.sent));
            cut.map(|expression| format!("{} of ref_id {}", expression.sent_id, reference.ref_id))
        })
        .collect();
    if !cut.is_empty() {
        let more = if cut.len() > LISTED { ", ..." } else { "" };
        let what = format!(
            "{} have more than {word_len} tokens and are cut: sent_id {}{more}",
            cut.len(),
            cut[..cut.len().min(LISTED)].join(", ")
        );
        warnings.push(Problem { record: "expressions".into(), what });
    }
    Ok(())
}

/// Records that a warning names before "...".
const LISTED: usize = 10;

fn splits_by_image(dataset: &Dataset) -> BTreeMap<i64, BTreeSet<&str>> {
    let mut splits: BTreeMap<i64, BTreeSet<&str>> = BTreeMap::new();
    for reference in &dataset.refs {
        splits.entry(reference.image_id).or_default().insert(&reference.split);
    }
    splits
}

/// One picture under two names, in several splits.
fn same_pictures(dataset: &Dataset, splits_of: &BTreeMap<i64, BTreeSet<&str>>, errors: &mut Vec<Problem>) {
    if dataset.descriptor.splits_share_images {
        return;
    }
    let keys = picture_keys(std::slice::from_ref(dataset)).pop().unwrap_or_default();
    let mut first: BTreeMap<PictureKey, i64> = BTreeMap::new();
    let name = |id: &i64| {
        dataset.instances.images.get(id).map_or_else(|| id.to_string(), |record| record.file_name.clone())
    };
    for (id, keys) in &keys {
        for key in keys {
            let other = *first.entry(key.clone()).or_insert(*id);
            if other != *id && splits_of.get(&other) != splits_of.get(id) {
                let what = format!("it is the same picture as `{}`, which is in another split", name(&other));
                errors.push(Problem { record: format!("image `{}`", name(id)), what });
            }
        }
    }
}

/// Warns about a usable mask that is probably a mistake.
fn odd_mask(dataset: &Dataset, ann_id: i64, mask: &Mask, turned: &BTreeMap<i64, ExifTurn>) -> Option<String> {
    let annotation = dataset.instances.annotations.get(&ann_id)?;
    let image = dataset.instances.images.get(&annotation.image_id)?;
    let file = dataset.mask_file(ann_id).ok()?;
    let lossy = file.as_ref().and_then(|path| lossy_format(path)).map(|format| {
        "its mask is a ".to_owned()
            + format
            + ", whose edges are blurred: pixels of at least one half count; save masks as PNG"
    });
    let levels = file.as_ref().and_then(|path| levels_in_words(levels(path)));
    let is_own = dataset.descriptor.format == AnnotationFormat::Own;
    let turn = turned.get(&image.id).filter(|_| is_own);
    let palette = file.as_ref().filter(|path| background_is_light(path)).map(|_| {
        "index 0 of its mask's palette, which is background, is neither black nor transparent, but another index is".to_owned()
    });
    let orientation =
        turn.and_then(|turn| oriented(image, *turn, annotation.segmentation.get(), file.as_deref()));
    let covers_all = mask.area() == mask.width * mask.height && !annotation.is_crowd;
    let covers_all = covers_all.then(|| "its mask covers the whole picture".to_owned());
    let found: Vec<String> =
        [lossy, palette, levels, orientation, covers_all].into_iter().flatten().collect();
    (!found.is_empty()).then(|| found.join("; "))
}

/// What to say of a mask file with more values than an object's mask has.
fn levels_in_words(levels: Levels) -> Option<String> {
    match levels {
        Levels::One => None,
        Levels::Few(values) => {
            let shown: Vec<String> = values.iter().take(LISTED).map(u16::to_string).collect();
            let more = if values.len() > shown.len() { ", ..." } else { "" };
            Some(format!(
                "its mask file has the values {}{more}, and all of them count: if it is a map of several objects, or one value says \
                 \"unknown\", save a mask of 0 and 255 for each object",
                shown.join(", ")
            ))
        }
        Levels::Soft => Some(
            "its mask file has many grey levels, as after scaling or blurring: pixels of at least one half count; save masks of 0 and 255"
                .to_owned(),
        ),
    }
}

/// What to say of a mask in a picture that its EXIF orientation turns or mirrors.
fn oriented(image: &ImageRecord, turn: ExifTurn, segmentation: &str, file: Option<&Path>) -> Option<String> {
    let Some(file) = file else {
        let beyond = reach_of(segmentation)
            .is_some_and(|[x, y]| x > image.width as f64 + 1.0 || y > image.height as f64 + 1.0);
        let what = match beyond {
            true => {
                "its polygon reaches beyond the picture, which its EXIF orientation turns: it was drawn on the picture \
                 before it was turned"
            }
            false => {
                "its picture is turned or mirrored by its EXIF orientation; its mask must be that of the turned picture"
            }
        };
        return Some(what.to_owned());
    };
    // A mask file of a picture on its side has the turned size, which the unturned mask would not have.
    let bytes = std::fs::read(file).unwrap_or_default();
    let fits_one_way = image.width != image.height && turn == ExifTurn::ExchangesSides;
    (!fits_one_way && ExifTurn::of(&bytes) == ExifTurn::None).then(|| {
        "its picture is turned or mirrored by its EXIF orientation, and its mask file has none: the mask must be that of the turned \
         picture"
            .to_owned()
    })
}

/// Largest x and y of a segmentation's polygons.
fn reach_of(segmentation: &str) -> Option<[f64; 2]> {
    let polygons = polygons_of(segmentation).ok()?;
    let points = polygons.iter().flat_map(|polygon| polygon.as_chunks::<2>().0);
    points.copied().reduce(|[x, y], [a, b]| [x.max(a), y.max(b)])
}

fn image(dataset: &Dataset, id: i64) -> CheckedImage {
    let problem = |what: String| Problem { record: format!("image {id}"), what };
    let decoded = dataset.image_bytes(id).and_then(|bytes| {
        dataset.decode_image_file(id, &bytes, Vec::new())?;
        Ok((is_cut_short(&bytes), ExifTurn::of(&bytes)))
    });
    match decoded {
        Err(error) => {
            CheckedImage { error: Some(problem(error.to_string())), warning: None, turn: ExifTurn::None }
        }
        Ok((is_cut, turn)) => {
            let warning =
                is_cut.then(|| problem("the JPEG has no end marker: part of it may be missing".into()));
            CheckedImage { error: None, warning, turn }
        }
    }
}

/// Returns the annotation id, an error, and a warning.
fn mask(
    dataset: &Dataset,
    ann_id: i64,
    turned: &BTreeMap<i64, ExifTurn>,
) -> (i64, Option<Problem>, Option<Problem>) {
    let problem = |what: String| Some(Problem { record: format!("annotation {ann_id}"), what });
    match dataset.mask(ann_id) {
        Err(Error::Segmentation { source, .. }) => (ann_id, problem(source.to_string()), None),
        Err(error) => (ann_id, problem(error.to_string()), None),
        Ok(mask) if mask.area() == 0 => (ann_id, problem("its mask is empty".into()), None),
        Ok(mask) => (ann_id, None, odd_mask(dataset, ann_id, &mask, turned).and_then(problem)),
    }
}
