//! The data pipeline: letterbox, masks, metrics, and mapping predictions back to the photo (`data/README.md`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use metrics::{Overlap, SegmentationMetrics};
use refcoco::letterbox::{Affine, Letterbox, Normalisation};
use refcoco::{Mask, RgbImage, read_image};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::case::{Case, nothing_left, read_tensors};
use crate::data_text;
use crate::json::{as_list, entries, integer, number, read_json, text};
use crate::photos;
use crate::pictures::{binary, compare_bytes, grey, letterbox_lists, side_of};
use crate::recorded::list;
use crate::report::{CaseReport, Comparison, Tolerance};

/// Files without recordings.
const NOT_RECORDINGS: [&str; 3] = ["README.md", "versions.json", "opencv_releases.json"];
/// Files and folders that belong to a case of another name.
const PARTS: [&str; 4] = ["decoded", "mask_src", "eval_maps.safetensors", "train_metric.safetensors"];

/// Whether an entry belongs to `letterbox.json`: `letterbox<side>`, `mask<side>`, `tensors<side>.safetensors`.
fn belongs_to_letterbox(entry: &str) -> bool {
    let stem = entry.trim_end_matches(".safetensors");
    ["letterbox", "mask", "tensors"].iter().any(|kind| side_of(stem, kind).is_some())
}

/// Every file and folder of `data/`.
pub(crate) fn cases(folder: &Path, data_root: Option<&Path>) -> Vec<CaseReport> {
    let entries = match list(folder) {
        Ok(entries) => entries,
        Err(error) => return vec![CaseReport::failed("data", &format!("{error:#}"))],
    };
    let mut reports = Vec::new();
    for entry in entries.iter().filter(|entry| !NOT_RECORDINGS.contains(&entry.as_str())) {
        let label = format!("data/{entry}");
        let bare = |work: &dyn Fn(&mut Case) -> Result<()>| Case::bare(&label, |case| work(case));
        let with_photos = |work: &dyn Fn(&Path, &mut Case) -> Result<()>| match data_root {
            Some(root) => Case::bare(&label, |case| work(root, case)),
            None => {
                CaseReport::not_run(&label, "needs the photos and annotations: name them with --data-root")
            }
        };
        match entry.as_str() {
            "affine.json" => reports.push(bare(&|case| affine(folder, case))),
            "letterbox.json" => {
                reports.push(bare(&|case| letterbox(folder, case)));
                let photos = with_photos(&|root, case| photos::letterbox(folder, root, case));
                reports.push(photos.named(format!("{label} (photos)")));
            }
            "eval.json" => reports.push(bare(&|case| evaluation(folder, case))),
            "metrics.json" => reports.push(bare(&|case| aggregate(folder, case))),
            "tokens.json" => reports.push(bare(&|case| data_text::tokens(folder, case))),
            "tokens_nasty.json" => reports.push(bare(&|case| data_text::nasty(folder, case))),
            "images.json" => reports.push(with_photos(&|root, case| photos::images(folder, root, case))),
            "masks.json" => reports.push(with_photos(&|root, case| photos::masks(folder, root, case))),
            "refs_json" => reports.push(with_photos(&|root, case| data_text::refs(folder, root, case))),
            "anns" => reports.push(with_photos(&|root, case| data_text::anns(folder, root, case))),
            part if PARTS.contains(&part) || belongs_to_letterbox(part) => {}
            _ => reports.push(CaseReport::failed(&label, "nothing here knows this file or folder")),
        }
    }
    reports
}

/// Compares two affine matrices by their largest difference.
fn compare_affine(case: &mut Case, label: &str, found: &Affine, expected: Option<&Value>) -> Result<()> {
    let (mut error, mut largest) = (0.0_f64, 0.0_f64);
    for (row, values) in found.0.iter().enumerate() {
        for (column, value) in values.iter().enumerate() {
            let expected = expected.and_then(|expected| expected.pointer(&format!("/{row}/{column}")));
            let expected = expected.and_then(Value::as_f64).context("a matrix has 2 x 3 numbers")?;
            error = error.max((value - expected).abs());
            largest = largest.max(expected.abs());
        }
    }
    case.record(Comparison::new(label, error, largest, Tolerance::Scaled(1e-12)));
    Ok(())
}

fn affine(folder: &Path, case: &mut Case) -> Result<()> {
    let json = read_json(&folder.join("affine.json"))?;
    for entry in as_list(&json, "affine.json")? {
        let (w, h, size) =
            (integer(entry, "ori_w")?, integer(entry, "ori_h")?, integer(entry, "input_size")?);
        let found = Letterbox::new(w as usize, h as usize, size as usize);
        compare_affine(case, &format!("{w} x {h} to {size}"), &found.to_input, entry.get("mat"))?;
        compare_affine(case, &format!("{size} to {w} x {h}"), &found.to_image, entry.get("mat_inv"))?;
    }
    Ok(())
}

fn normalised_image(case: &mut Case, id: i64, letterbox: &Letterbox, image: &RgbImage, tensor: &Tensor) {
    let side = letterbox.size as i64;
    let pixels = letterbox.normalised_image(image, &Normalisation::CLIP);
    let found = Tensor::from_slice(&pixels).view([3, side, side]);
    // Set A stores these values in [row, column, channel] order, although the recorded shape is [3, side, side].
    let (label, expected) = match found == *tensor {
        true => (format!("tensor {id}.image"), tensor.shallow_clone()),
        false => (
            format!("tensor {id}.image, channels last"),
            tensor.contiguous().view([side, side, 3]).permute([2, 0, 1]),
        ),
    };
    case.compare_with(&label, &found, &expected, Tolerance::Exact);
}

/// Compares a letterboxed mask. Returns the names of the files it used.
fn warped_mask(
    folder: &Path,
    case: &mut Case,
    key: &str,
    letterbox: &Letterbox,
    mask: &Value,
) -> Result<[String; 2]> {
    let ann_id = integer(mask, "ann_id")?;
    let source_name = format!("mask_src/{ann_id}.png");
    let warped = letterbox.mask(&binary(&folder.join(&source_name))?);
    let expected_name = text(mask, "warped")?;
    let expected = grey(&folder.join(expected_name))?;
    compare_bytes(case, &format!("{key} mask {ann_id}"), &warped, &expected.data);
    let sum: i64 = warped.iter().map(|&value| i64::from(value)).sum();
    case.check(&format!("{key} mask {ann_id}: sum"), sum == integer(mask, "sum_u8")?);
    let nonzero = warped.iter().filter(|&&value| value > 0).count() as i64;
    case.check(&format!("{key} mask {ann_id}: nonzero"), nonzero == integer(mask, "nonzero")?);
    Ok([source_name, expected_name.to_owned()])
}

/// Recordings of one input size.
struct RecordedSize<'a> {
    folder: &'a Path,
    key: &'a str,
    side: usize,
    tensors: &'a BTreeMap<String, Tensor>,
}

impl RecordedSize<'_> {
    /// Compares a picture and its masks. Returns the number of recorded tensors that it used.
    fn compare(&self, entry: &Value, case: &mut Case, used: &mut BTreeSet<String>) -> Result<i32> {
        let Self { folder, key, side, tensors } = *self;
        let id = integer(entry, "image_id")?;
        // Pictures without decoded pixels are compared by the case that needs the photos.
        let Some(decoded_name) = entry.get("decoded").and_then(Value::as_str) else { return Ok(0) };
        let decoded = read_image(&folder.join(decoded_name))?;
        let letterbox = Letterbox::new(decoded.width, decoded.height, side);
        let expected = read_image(&folder.join(text(entry, "image")?))?;
        compare_bytes(
            case,
            &format!("{key} {id}"),
            &letterbox.image(&decoded, Normalisation::CLIP.border),
            &expected.data,
        );
        used.extend([decoded_name.to_owned(), text(entry, "image")?.to_owned()]);
        let mut n_tensors = 0;
        if let Some(tensor) = tensors.get(&format!("{id}.image")) {
            normalised_image(case, id, &letterbox, &decoded, tensor);
            n_tensors += 1;
        }
        for mask in entries(entry, "masks")? {
            used.extend(warped_mask(folder, case, key, &letterbox, mask)?);
        }
        if let Some(tensor) = tensors.get(&format!("{id}.mask")) {
            let mut found = vec![0.0; side * side];
            if let Some(ann_id) = entry.get("tensor_mask_ann_id").and_then(Value::as_i64) {
                let source = binary(&folder.join(format!("mask_src/{ann_id}.png")))?;
                letterbox.unit_mask_into(&source, &mut found);
            }
            let found = Tensor::from_slice(&found).view([side as i64, side as i64]);
            case.compare_with(&format!("tensor {id}.mask"), &found, tensor, Tolerance::Exact);
            n_tensors += 1;
        }
        Ok(n_tensors)
    }
}

fn letterbox(folder: &Path, case: &mut Case) -> Result<()> {
    let json = read_json(&folder.join("letterbox.json"))?;
    let mut used = BTreeSet::new();
    for (side, list) in letterbox_lists(&json)? {
        let key = format!("letterbox{side}");
        let tensors = folder.join(format!("tensors{side}.safetensors"));
        let tensors = if tensors.is_file() { read_tensors(&tensors, Device::Cpu)? } else { BTreeMap::new() };
        let mut n_tensors = 0;
        for entry in list {
            let recorded = RecordedSize { folder, key: &key, side, tensors: &tensors };
            n_tensors += recorded.compare(entry, case, &mut used)?;
        }
        case.compare_number(
            &format!("tensors{side} used"),
            f64::from(n_tensors),
            tensors.len() as f64,
            Tolerance::Exact,
        );
    }
    // Pictures without decoded pixels belong to the case that needs the photos.
    for folder_name in ["decoded", "mask_src"] {
        for name in list(&folder.join(folder_name))? {
            let name = format!("{folder_name}/{name}");
            ensure!(used.contains(&name), "{name} is recorded but was not compared");
        }
    }
    Ok(())
}

/// Probabilities mapped back to the photo and thresholded.
fn evaluation(folder: &Path, case: &mut Case) -> Result<()> {
    let json = read_json(&folder.join("eval.json"))?;
    let mut maps = read_tensors(&folder.join("eval_maps.safetensors"), Device::Cpu)?;
    let targets = read_json(&folder.join("masks.json"))?;
    for entry in as_list(&json, "eval.json")? {
        let key = text(entry, "key")?;
        let (w, h) = (integer(entry, "width")? as usize, integer(entry, "height")? as usize);
        let letterbox = Letterbox::new(w, h, integer(entry, "input_size")? as usize);
        compare_affine(case, &format!("{key}: matrix"), &letterbox.to_image, entry.get("mat_inv"))?;
        let map = maps.remove(&format!("{key}.prob")).with_context(|| format!("no map {key}"))?;
        let map = Vec::<f32>::try_from(map.to_kind(Kind::Float).view([-1]))?;
        let warped = letterbox.map_to_image(&map);
        if let Some(expected) = maps.remove(&format!("{key}.warped")) {
            let found = Tensor::from_slice(&warped).view([h as i64, w as i64]);
            case.compare_with(&format!("{key}: warped"), &found, &expected, Tolerance::Absolute(1e-6));
        }
        let sum: f64 = warped.iter().map(|&value| f64::from(value)).sum();
        case.compare_number(
            &format!("{key}: sum"),
            sum,
            number(entry, "warped_sum")?,
            Tolerance::Scaled(1e-6),
        );

        let binary = Mask::above(w, h, &warped, 0.35);
        let expected = Mask::from_rle_string(w, h, text(entry, "pred_rle_counts")?)?;
        let flips = binary.data.iter().zip(&expected.data).filter(|(a, b)| a != b).count();
        let share = flips as f64 / (w * h) as f64;
        case.record(Comparison::new(
            &format!("{key}: flipped pixels"),
            share,
            1.0,
            Tolerance::Absolute(1e-4),
        ));
        let ann_id = integer(entry, "ann_id")?.to_string();
        let target = targets.get(&ann_id).with_context(|| format!("masks.json lacks {ann_id}"))?;
        let target = Mask::from_rle_string(w, h, text(target, "rle_counts")?)?;
        let overlap = Overlap::of_probabilities(&warped, 0.35, &target.data);
        case.compare_number(
            &format!("{key}: IoU"),
            overlap.iou(),
            number(entry, "iou")?,
            Tolerance::Absolute(1e-3),
        );
    }
    nothing_left(&maps)
}

/// IoU of mask pairs, mIoU, oIoU and precisions, and the metrics computed during training.
fn aggregate(folder: &Path, case: &mut Case) -> Result<()> {
    const EXACT: Tolerance = Tolerance::Absolute(1e-9);
    let json = read_json(&folder.join("metrics.json"))?;
    for (set, facts) in json.as_object().context("metrics.json is no object")? {
        if set == "train_metric" {
            continue;
        }
        let mut overlaps = Vec::new();
        for pair in entries(facts, "pairs")? {
            let (w, h) = (integer(pair, "width")? as usize, integer(pair, "height")? as usize);
            let mask = |key: &str| Ok::<_, anyhow::Error>(Mask::from_rle_string(w, h, text(pair, key)?)?);
            let overlap = Overlap::of_masks(&mask("pred")?.data, &mask("gt")?.data);
            let name = format!("{set} {}", text(pair, "name")?);
            let counts = (overlap.intersection as i64, overlap.union() as i64);
            case.check(&format!("{name}: I, U"), counts == (integer(pair, "I")?, integer(pair, "U")?));
            case.compare_number(&name, overlap.iou(), number(pair, "iou")?, EXACT);
            overlaps.push(overlap);
        }
        let found = SegmentationMetrics::from_overlaps(&overlaps);
        case.compare_number(&format!("{set}: mIoU"), found.miou / 100.0, number(facts, "mIoU")?, EXACT);
        case.compare_number(&format!("{set}: oIoU"), found.oiou / 100.0, number(facts, "oIoU")?, EXACT);
        let counts = facts.get("precision_counts").context("no precision_counts")?;
        for (name, percent) in ["Pr@50", "Pr@60", "Pr@70", "Pr@80", "Pr@90"].iter().zip(found.precisions()) {
            let count = percent * overlaps.len() as f64 / 100.0;
            case.compare_number(&format!("{set}: {name}"), count, number(counts, name)?, EXACT);
        }
    }
    let mut maps = read_tensors(&folder.join("train_metric.safetensors"), Device::Cpu)?;
    for entry in entries(&json, "train_metric")? {
        let key = text(entry, "key")?;
        let mut take = |name: &str| {
            maps.remove(&format!("{key}.{name}")).with_context(|| format!("train_metric lacks {key}.{name}"))
        };
        let (logits, target) = (take("logits")?, take("target")?);
        // During training the threshold itself counts as foreground, and so does every target above 0.
        let rows = |tensor: Tensor| tensor.to_kind(Kind::Uint8).flatten(1, 3);
        let (found, target) = (rows(logits.sigmoid().ge(0.35)), rows(target.ne(0.0)));
        let overlaps = (0..found.size()[0]).map(|row| -> Result<Overlap> {
            let bytes = |tensor: &Tensor| Vec::<u8>::try_from(tensor.select(0, row).contiguous());
            Ok(Overlap::of_masks(&bytes(&found)?, &bytes(&target)?))
        });
        let metrics = SegmentationMetrics::from_overlaps(&overlaps.collect::<Result<Vec<_>>>()?);
        // Recorded in float32 percent.
        let single = Tolerance::Absolute(2e-5);
        case.compare_number(
            &format!("train {key}: IoU"),
            metrics.miou,
            number(entry, "iou_percent")?,
            single,
        );
        case.compare_number(
            &format!("train {key}: Pr@50"),
            metrics.pr50,
            number(entry, "pr50_percent")?,
            single,
        );
    }
    nothing_left(&maps)
}
