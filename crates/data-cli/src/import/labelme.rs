//! labelme's JSON files, one per picture.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use refcoco::{Mask, decode_mask, read_json};
use serde_json::{Value, json};

use super::labelled::{
    Found, Labelled, LabelledMask, files_below, find_picture, name_below, recorded_size, similar_picture,
    split_of_path,
};

/// Reads a folder of labelme's JSON files. A shape's label is its category, its description an expression. Shapes of one label and
/// one `group_id` are one object.
///
/// - images: folder of the pictures; by default that of each file
pub(super) fn labelme(from: &Path, images: Option<&PathBuf>) -> Result<Found> {
    let mut found = Found::default();
    let is_json = |path: &&PathBuf| path.extension().is_some_and(|end| end == "json");
    let files = if from.is_dir() { files_below(from)? } else { vec![from.to_path_buf()] };
    let folder = if from.is_dir() { from } else { from.parent().unwrap_or(Path::new("")) };
    let mut unknown = None;
    for path in files.iter().filter(is_json) {
        let document = read_json(path)?;
        let Some(shapes) = document["shapes"].as_array() else {
            found.leave_out("JSON files that are not labelme's");
            unknown.get_or_insert_with(|| format!("{}: {}", path.display(), of_no_known_form(&document)));
            continue;
        };
        let picture = picture_of(&document, path, images)?;
        let recorded = recorded_size(&document["imageWidth"], &document["imageHeight"]);
        let mut groups: BTreeMap<(String, String), usize> = BTreeMap::new();
        for (index, shape) in shapes.iter().enumerate() {
            let part = match shape["shape_type"].as_str() {
                Some("mask") => {
                    let at = || format!("{}: shape {}", path.display(), index + 1);
                    Some(mask_shape(shape, &picture).with_context(at)?)
                }
                _ => polygon(shape),
            };
            let Some(part) = part else {
                found.leave_out("shapes that are no area");
                continue;
            };
            let label = match &shape["label"] {
                Value::String(label) => label.clone(),
                Value::Null => "object".to_owned(),
                other => other.to_string(),
            };
            let expressions = descriptions(shape);
            if !shape["group_id"].is_null() {
                let key = (label.clone(), shape["group_id"].to_string());
                if let Some(&place) = groups.get(&key) {
                    found.objects[place].join(part, expressions);
                    continue;
                }
                groups.insert(key, found.objects.len());
            }
            let name = name_below(&picture, folder);
            found.objects.push(Labelled {
                split: split_of_path(&name),
                name,
                picture: picture.clone(),
                mask: LabelledMask::Coco(json!([part])),
                category: Some(label),
                expressions,
                recorded,
                number: None,
                crowd: false,
            });
        }
    }
    match unknown {
        Some(what) if found.objects.is_empty() => bail!(what),
        _ => Ok(found),
    }
}

/// Says what a JSON document of another tool is.
fn of_no_known_form(document: &Value) -> String {
    let keys = |fields: &serde_json::Map<String, Value>| {
        fields
            .keys()
            .take(6)
            .map(|key| key.chars().take(40).collect::<String>())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let has = match document {
        Value::Object(fields) => format!("an object with {}", keys(fields)),
        Value::Array(items) => match items.first() {
            Some(Value::Object(fields)) => format!("a list of objects with {}", keys(fields)),
            _ => "a list".to_owned(),
        },
        _ => "a single value".to_owned(),
    };
    format!(
        "this JSON is neither labelme's nor COCO's, but {has}; export the annotations as COCO, which the tools know (VIA, Label Studio, \
         Supervisely, Labelbox, CVAT, ...)"
    )
}

/// The picture of a file: in the folder of the pictures, or where the file says, as seen from its own folder.
fn picture_of(document: &Value, path: &Path, images: Option<&PathBuf>) -> Result<PathBuf> {
    let named = document["imagePath"].as_str().unwrap_or_default().replace('\\', "/");
    let beside = path.parent().unwrap_or(Path::new(""));
    let as_written = beside.join(&named);
    if images.is_none()
        && let Ok(found) = as_written.canonicalize()
        && found.is_file()
        && named.split('/').any(|part| part == "..")
    {
        return Ok(found);
    }
    let folders = images.cloned().into_iter().chain([beside.to_path_buf()]).collect::<Vec<_>>();
    let found = find_picture(&folders, &named).map(|(picture, _)| picture);
    found.with_context(|| {
        let embedded = match document["imageData"].is_string() {
            true => " (what `imageData` holds is not read)",
            false => "",
        };
        format!(
            "{}: its picture `{named}` does not lie beside it{embedded}{}; say where they are with --images DIR",
            path.display(),
            similar_picture(&folders, &named)
        )
    })
}

/// Expressions of a shape: its description, a text or a list of texts.
fn descriptions(shape: &Value) -> Vec<String> {
    let texts: Vec<&str> = match &shape["description"] {
        Value::String(text) => vec![text],
        Value::Array(texts) => texts.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    texts.into_iter().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned).collect()
}

impl Labelled {
    /// Adds another part of the same object.
    fn join(&mut self, part: Value, expressions: Vec<String>) {
        if let LabelledMask::Coco(Value::Array(parts)) = &mut self.mask {
            parts.push(part);
        }
        for text in expressions {
            if !self.expressions.contains(&text) {
                self.expressions.push(text);
            }
        }
    }
}

/// Corners of a shape, `[x, y, x, y, ...]`; `None` for lines and points.
fn polygon(shape: &Value) -> Option<Value> {
    let points = points(shape)?;
    let corners: Vec<[f64; 2]> = match (shape["shape_type"].as_str().unwrap_or("polygon"), &points[..]) {
        // X-AnyLabeling's rotated rectangles have their four corners.
        ("polygon" | "rotation", points) if points.len() > 2 => points.to_vec(),
        ("rectangle", &[[a, b], [c, d]]) => vec![[a, b], [c, b], [c, d], [a, d]],
        ("rectangle", points) if points.len() == 4 => points.to_vec(),
        // The centre, and a point of the circle.
        ("circle", &[[x, y], [a, b]]) => {
            let radius = (a - x).hypot(b - y);
            let corner = |step: u32| {
                let angle = f64::from(step) * std::f64::consts::TAU / 64.0;
                [x + radius * angle.cos(), y + radius * angle.sin()]
            };
            (0..64).map(corner).collect()
        }
        _ => return None,
    };
    Some(json!(corners.concat()))
}

fn points(shape: &Value) -> Option<Vec<[f64; 2]>> {
    let point = |point: &Value| Some([point.get(0)?.as_f64()?, point.get(1)?.as_f64()?]);
    shape["points"].as_array()?.iter().map(point).collect()
}

/// A shape of labelme's AI tools, as an RLE of the picture's size: a PNG in base64 for the box between two points, both
/// corners included.
fn mask_shape(shape: &Value, picture: &Path) -> Result<Value> {
    let text = shape["mask"].as_str().context("`mask` is missing: it must be a PNG in base64")?;
    let bytes = base64::engine::general_purpose::STANDARD.decode(text.trim());
    let bytes = bytes.context("`mask` is not base64")?;
    let part = decode_mask(&bytes).map_err(|what| anyhow::anyhow!("`mask` is not a picture: {what}"))?;
    let corners = points(shape).filter(|points| points.len() == 2);
    let corners = corners.context("`points` must be the two corners of the mask's box")?;
    let (width, height) = refcoco::image_size(picture)?;
    let [left, top] = [0, 1].map(|axis| corners[0][axis].min(corners[1][axis]).round());
    ensure!(left >= 0.0 && top >= 0.0, "the mask's box begins outside the picture");
    let (left, top) = (left as usize, top as usize);
    ensure!(
        left + part.width <= width && top + part.height <= height,
        "its mask of {}x{} at {left}, {top} does not fit into the picture of {width}x{height}",
        part.width,
        part.height
    );
    let mut whole = Mask::zeros(width, height);
    for (y, row) in part.data.chunks_exact(part.width.max(1)).enumerate() {
        let start = (top + y) * width + left;
        whole.data[start..start + part.width].copy_from_slice(row);
    }
    Ok(json!({"size": [height, width], "counts": whole.to_rle_string()}))
}
