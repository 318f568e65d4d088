//! Cases that need the original photos and annotations.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use refcoco::letterbox::{Letterbox, Normalisation};
use refcoco::{Dataset, RgbImage, read_image};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::case::Case;
use crate::data_text::dataset;
use crate::json::{entries, integer, integers, read_json, text};
use crate::pictures::{compare_bytes, grey, letterbox_lists};
use crate::report::{Comparison, Tolerance};

/// JPEG decoders differ: the mean absolute difference to libjpeg-turbo may be one level.
const LEVEL: Tolerance = Tolerance::Absolute(1.0);

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn datasets(root: &Path) -> Result<Vec<Dataset>> {
    ["refcoco_unc", "refcoco+_unc", "refcocog_google", "refcocog_umd"]
        .map(|name| dataset(name, root))
        .into_iter()
        .collect()
}

/// The data set that contains an annotation.
fn holder(datasets: &[Dataset], ann_id: i64) -> Result<&Dataset> {
    let found = datasets.iter().find(|dataset| dataset.instances.annotations.contains_key(&ann_id));
    found.with_context(|| format!("annotation {ann_id} is in no data set"))
}

/// Paths of all photos by image id.
fn photo_paths(datasets: &[Dataset]) -> Result<BTreeMap<i64, PathBuf>> {
    let mut paths = BTreeMap::new();
    for dataset in datasets {
        for image in dataset.instances.images.values() {
            paths.insert(image.id, dataset.image_path(image)?);
        }
    }
    Ok(paths)
}

/// Path of the photo with an image id. Some photos are in the folder, but in no annotation file.
fn photo(paths: &BTreeMap<i64, PathBuf>, id: i64, name: &str) -> Result<PathBuf> {
    let beside = || paths.values().next().map(|path| path.with_file_name(name));
    paths.get(&id).cloned().or_else(beside).context("there are no photos")
}

fn mean_difference(found: &[u8], expected: &[u8]) -> f64 {
    let sum: u64 = found.iter().zip(expected).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f64 / expected.len().max(1) as f64
}

/// Mean and standard deviation of each channel.
fn moments(data: &[u8]) -> [(f64, f64); 3] {
    [0, 1, 2].map(|channel| {
        let values = || data.iter().skip(channel).step_by(3).map(|&value| f64::from(value));
        let n = (data.len() / 3).max(1) as f64;
        let mean = values().sum::<f64>() / n;
        (mean, (values().map(|value| (value - mean).powi(2)).sum::<f64>() / n).sqrt())
    })
}

fn compare_moments(case: &mut Case, label: &str, data: &[u8], facts: &Value, key: &str) -> Result<()> {
    for (channel, (mean, std)) in moments(data).into_iter().enumerate() {
        for (found, kind) in [(mean, "mean"), (std, "std")] {
            let expected = facts.pointer(&format!("/{key}_{kind}/{channel}")).and_then(Value::as_f64);
            let expected = expected.with_context(|| format!("{label}: no {key}_{kind}"))?;
            case.compare_number(&format!("{label}: {key} {kind} {channel}"), found, expected, LEVEL);
        }
    }
    Ok(())
}

/// Every photo: mean and standard deviation of the decoded and of the letterboxed picture. Where the decoded pixels are
/// recorded, also the mean difference to them.
pub(crate) fn images(folder: &Path, root: &Path, case: &mut Case) -> Result<()> {
    let json = read_json(&folder.join("images.json"))?;
    let paths = photo_paths(&datasets(root)?)?;
    for (id, facts) in json.as_object().context("images.json is no object")? {
        let name = text(facts, "file_name")?;
        let number: i64 = id.parse().with_context(|| format!("`{id}`"))?;
        let path = photo(&paths, number, name)?;
        let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
        ensure!(hash(&bytes) == text(facts, "jpeg_sha256")?, "{}: another file was recorded", path.display());
        let image = read_image(&path)?;
        let size = (image.width as i64, image.height as i64);
        case.check(&format!("{id}: size"), size == (integer(facts, "width")?, integer(facts, "height")?));
        compare_moments(case, id, &image.data, facts, "decoded")?;
        let recorded = facts.as_object().into_iter().flatten().filter_map(|(key, _)| {
            key.strip_prefix("letterbox")?.strip_suffix("_mean")?.parse::<usize>().ok()
        });
        for side in recorded {
            let warped =
                Letterbox::new(image.width, image.height, side).image(&image, Normalisation::CLIP.border);
            compare_moments(case, id, &warped, facts, &format!("letterbox{side}"))?;
        }
        let decoded = folder.join(format!("decoded/{id}.png"));
        if decoded.is_file() {
            let difference = mean_difference(&image.data, &read_image(&decoded)?.data);
            case.record(Comparison::new(&format!("{id}: decoding"), difference, 255.0, LEVEL));
        }
    }
    Ok(())
}

/// All letterboxed pictures and masks, from the photos and annotations.
pub(crate) fn letterbox(folder: &Path, root: &Path, case: &mut Case) -> Result<()> {
    let json = read_json(&folder.join("letterbox.json"))?;
    let datasets = datasets(root)?;
    let paths = photo_paths(&datasets)?;
    let lists = letterbox_lists(&json)?;
    for (side, entry) in
        lists.into_iter().flat_map(|(side, list)| list.iter().map(move |entry| (side, entry)))
    {
        let id = integer(entry, "image_id")?;
        let path = photo(&paths, id, &format!("COCO_train2014_{id:012}.jpg"))?;
        let photo: RgbImage = read_image(&path)?;
        let letterbox = Letterbox::new(photo.width, photo.height, side);
        let expected = read_image(&folder.join(text(entry, "image")?))?;
        let difference =
            mean_difference(&letterbox.image(&photo, Normalisation::CLIP.border), &expected.data);
        case.record(Comparison::new(&format!("photo {id} at {side}"), difference, 255.0, LEVEL));
        for mask in entries(entry, "masks")? {
            let ann_id = integer(mask, "ann_id")?;
            let ours = holder(&datasets, ann_id)?.mask(ann_id)?;
            let expected = grey(&folder.join(text(mask, "warped")?))?;
            compare_bytes(case, &format!("mask {ann_id} at {side}"), &letterbox.mask(&ours), &expected.data);
        }
    }
    Ok(())
}

/// Every annotated mask: the union of its parts, their sum, and the pixels that the conversion script writes.
pub(crate) fn masks(folder: &Path, root: &Path, case: &mut Case) -> Result<()> {
    let json = read_json(&folder.join("masks.json"))?;
    let datasets = datasets(root)?;
    for (id, facts) in json.as_object().context("masks.json is no object")? {
        let ann_id: i64 = id.parse().with_context(|| format!("`{id}`"))?;
        let holder = holder(&datasets, ann_id)?;
        let (union, parts) = (holder.mask(ann_id)?, holder.mask_parts(ann_id)?);
        let mut sum = vec![0_u8; union.data.len()];
        for part in &parts {
            for (sum, pixel) in sum.iter_mut().zip(&part.data) {
                *sum += pixel;
            }
        }
        let written: Vec<u8> = sum.iter().map(|&n| n.wrapping_mul(255)).collect();
        let refer_area: i64 = sum.iter().map(|&n| i64::from(n)).sum();
        let areas: Vec<i64> = parts.iter().map(|part| part.area() as i64).collect();
        let recorded = integers(facts, "part_areas")?;
        let same = union.to_rle_string() == text(facts, "rle_counts")?
            && union.area() as i64 == integer(facts, "area")?
            && refer_area == integer(facts, "refer_area")?
            && areas == recorded
            && hash(&union.data) == text(facts, "sha256")?
            && hash(&sum) == text(facts, "sha256_refer_mask")?
            && hash(&written) == text(facts, "sha256_mask_png_pixels")?;
        case.check(id, same);
    }
    Ok(())
}
