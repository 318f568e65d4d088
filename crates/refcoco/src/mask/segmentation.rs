//! The forms in which people's tools write a COCO `segmentation`.

use serde_json::Value;

use super::Mask;
use crate::error::{MaskError, Turned};
use crate::file_spelling::shortened;
use crate::reader::whole_number;

/// Lists inside lists beyond this depth are refused.
const MAX_NESTING: usize = 4;

/// A part of a segmentation.
#[derive(Debug, PartialEq)]
pub(super) enum Part<'a> {
    /// `x, y, x, y, ...` in pixels.
    Polygon(Vec<f64>),
    /// A run-length object, `{"size": [height, width], "counts": ...}`.
    Rle(&'a serde_json::Map<String, Value>),
}

/// The parts of a segmentation, in order.
///
/// - a run-length object, or a list of them (RRSIS-D)
/// - a list of polygons, `[[x, y, x, y, ...], ...]`, as COCO has it
/// - a bare polygon, `[x, y, x, y, ...]`
/// - polygons of point pairs, `[[x, y], [x, y], ...]`, as labelme writes them, or a list of such
/// - polygons of points by name, `[{"x": 1, "y": 2}, ...]`
/// - any of these inside one or two further lists
///
/// Empty polygons beside others count as nothing.
///
/// # Errors
/// When it is none of these, also when it is a mask as a matrix of 0 and 1. An empty list has no parts.
pub(super) fn parts_of(value: &Value) -> Result<Vec<Part<'_>>, MaskError> {
    let mut parts = Vec::new();
    match value {
        Value::Array(_) => {
            collect(value, 0, &mut parts)?;
            let is_empty = |part: &Part<'_>| matches!(part, Part::Polygon(points) if points.is_empty());
            if !parts.iter().all(is_empty) {
                parts.retain(|part| !is_empty(part));
            }
        }
        Value::Object(fields) => parts.push(Part::Rle(fields)),
        Value::Null => return Err(MaskError::Kind("null".into())),
        other => return Err(MaskError::Kind(short(other))),
    }
    Ok(parts)
}

fn collect<'a>(value: &'a Value, depth: usize, parts: &mut Vec<Part<'a>>) -> Result<(), MaskError> {
    match value {
        Value::Object(fields) => parts.push(Part::Rle(fields)),
        Value::Array(items) if items.iter().any(Value::is_number) => {
            parts.push(Part::Polygon(items.iter().map(coordinate).collect::<Result<_, _>>()?));
        }
        Value::Array(items) if is_point_pairs(items) => {
            let points = items.iter().flat_map(|pair| pair.as_array().into_iter().flatten());
            parts.push(Part::Polygon(points.map(coordinate).collect::<Result<_, _>>()?));
        }
        Value::Array(items) if items.iter().any(|item| named_point(item).is_some()) => {
            let points = items.iter().map(|item| {
                named_point(item)
                    .ok_or_else(|| MaskError::Polygon(format!("{} is no point with x and y", short(item))))
            });
            parts.push(Part::Polygon(points.collect::<Result<Vec<_>, _>>()?.concat()));
        }
        // An empty polygon counts as a part without area. COCO's tools refuse a segmentation that begins with one.
        Value::Array(items) if items.is_empty() && depth > 0 => parts.push(Part::Polygon(Vec::new())),
        Value::Array(items) if depth < MAX_NESTING => {
            for item in items {
                collect(item, depth + 1, parts)?;
            }
        }
        other => {
            return Err(MaskError::Polygon(format!("{} is no list of coordinates", short(other))));
        }
    }
    Ok(())
}

/// Whether a list is a polygon of three or more points `[x, y]`. Two-element lists cannot be polygons of their own.
fn is_point_pairs(items: &[Value]) -> bool {
    let is_pair = |item: &Value| {
        item.as_array().is_some_and(|pair| pair.len() == 2 && pair.iter().all(Value::is_number))
    };
    items.len() > 1 && items.iter().all(is_pair)
}

/// A point that names its coordinates.
fn named_point(value: &Value) -> Option<[f64; 2]> {
    let fields = value.as_object()?;
    Some([fields.get("x")?.as_f64()?, fields.get("y")?.as_f64()?])
}

/// Refuses a list that is no outline but the mask itself: its pixels, row by row or all in one list.
///
/// - width, height: of the image
///
/// # Errors
/// When it is one: as many rows and columns as the image has, or nothing but 0 and 1.
pub(super) fn refuse_pixels(value: &Value, width: usize, height: usize) -> Result<(), MaskError> {
    let Value::Array(list) = value else { return Ok(()) };
    let mut rows = list;
    // A batch of one.
    while let [Value::Array(inner)] = &rows[..] {
        rows = inner;
    }
    let is_bit =
        |value: &Value| value.is_boolean() || value.as_f64().is_some_and(|bit| bit == 0.0 || bit == 1.0);
    let columns = rows.first().and_then(Value::as_array).map_or(0, Vec::len);
    let is_row = |row: &Value| {
        let is_pixel = |pixel: &Value| pixel.is_number() || pixel.is_boolean();
        row.as_array().is_some_and(|row| row.len() == columns && row.iter().all(is_pixel))
    };
    let is_bits = |row: &Value| row.as_array().is_some_and(|row| row.iter().all(is_bit));
    // Small images may have an outline of as many numbers.
    let is_large = width * height >= 256;
    let is_flat = rows.iter().all(|pixel| pixel.is_number() || pixel.is_boolean());
    let is_mask = match is_flat {
        true => {
            rows.iter().any(Value::is_boolean)
                || rows.len() > 8 && rows.iter().all(is_bit)
                || is_large && rows.len() == width * height
        }
        // Longer than the two numbers of a point.
        false => {
            let is_size = is_large && (rows.len(), columns) == (height, width);
            columns > 2 && rows.iter().all(is_row) && (is_size || rows.iter().all(is_bits))
        }
    };
    match is_mask {
        true => Err(MaskError::Kind(
            "the mask's pixels, a matrix of 0 and 1 or the like; write the mask as COCO RLE, for example with \
             `pycocotools.mask.encode`"
                .into(),
        )),
        false => Ok(()),
    }
}

/// Refuses polygons whose coordinates are all shares of the image's size.
pub(super) fn refuse_shares(polygons: &[Vec<f64>], width: usize, height: usize) -> Result<(), MaskError> {
    let mut all = polygons.iter().flatten();
    let is_share = |value: &f64| (0.0..=1.0).contains(value);
    let is_within = polygons.iter().any(|polygon| polygon.len() >= 6) && all.clone().all(is_share);
    match is_within && width.max(height) > 8 && all.any(|value| value.fract() != 0.0) {
        true => Err(MaskError::Polygon(
            "all coordinates are between 0 and 1: they must be pixels, not shares of the image's size".into(),
        )),
        false => Ok(()),
    }
}

fn coordinate(value: &Value) -> Result<f64, MaskError> {
    value.as_f64().ok_or_else(|| {
        // JSON has no NaN, so that the readers make it null.
        let what = if value.is_null() { "null (or NaN)".to_owned() } else { short(value) };
        MaskError::Polygon(format!("{what} is no coordinate"))
    })
}

/// A value as it stands in a message.
fn short(value: &Value) -> String {
    shortened(&value.to_string(), 80)
}

/// A run-length object as a mask of this size.
pub(super) fn rle_mask(
    width: usize,
    height: usize,
    fields: &serde_json::Map<String, Value>,
) -> Result<Mask, MaskError> {
    if !fields.contains_key("size") && !fields.contains_key("counts") {
        let keys: Vec<&str> = fields.keys().map(String::as_str).collect();
        return Err(MaskError::Kind(format!(
            "an object with {}",
            if keys.is_empty() { "nothing".into() } else { keys.join(", ") }
        )));
    }
    let size = fields.get("size").and_then(Value::as_array).map(Vec::as_slice);
    let Some([h, w]) = size else {
        return Err(MaskError::Rle("`size` must be [height, width]".into()));
    };
    let (Some(h), Some(w)) = (whole(h), whole(w)) else {
        return Err(MaskError::Rle("`size` must hold two non-negative integers".into()));
    };
    if (h, w) != (height as u64, width as u64) {
        let found = (h as usize, w as usize);
        return Err(MaskError::Size { found, expected: (height, width), turned: Turned(false) });
    }
    match fields.get("counts") {
        Some(Value::String(text)) if is_bytes_literal(text) => Err(MaskError::Rle(format!(
            "`counts` is the text of a Python bytes object ({}): write `rle[\"counts\"].decode(\"ascii\")` to the file",
            short(&Value::String(text.clone()))
        ))),
        Some(Value::String(text)) => Mask::from_rle_string(width, height, text),
        Some(Value::Array(counts)) => {
            let count = |count: &Value| {
                whole(count).ok_or_else(|| MaskError::Rle(format!("{count} is no run length")))
            };
            Mask::from_counts(width, height, &counts.iter().map(count).collect::<Result<Vec<_>, _>>()?)
        }
        _ => Err(MaskError::Rle("`counts` must be a list or a string".into())),
    }
}

/// A whole number from 0 on, also one that is written as a float or as text.
fn whole(value: &Value) -> Option<u64> {
    u64::try_from(whole_number(value)?).ok()
}

/// `str(b"...")` in place of the bytes.
fn is_bytes_literal(text: &str) -> bool {
    let rest = text.strip_prefix('b').unwrap_or_default();
    ['\'', '"'].iter().any(|quote| rest.len() >= 2 && rest.starts_with(*quote) && rest.ends_with(*quote))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_polygon_in_every_form() {
        let flat = vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        for form in [
            json!([1, 2, 3, 4, 5, 6]),
            json!([[1, 2, 3, 4, 5, 6]]),
            json!([[[1, 2, 3, 4, 5, 6]]]),
            json!([[1, 2], [3, 4], [5, 6]]),
            json!([[[1, 2], [3, 4], [5, 6]]]),
            json!([[[[1, 2], [3, 4], [5, 6]]]]),
            json!([[{"x": 1, "y": 2}, {"x": 3, "y": 4}, {"x": 5, "y": 6}]]),
            json!([[], [1, 2, 3, 4, 5, 6], []]),
        ] {
            assert_eq!(parts_of(&form).unwrap(), [Part::Polygon(flat.clone())], "{form}");
        }
        let two = json!([[[1, 2], [3, 4], [5, 6]], [1, 2, 3, 4, 5, 6]]);
        assert_eq!(parts_of(&two).unwrap().len(), 2);
    }

    #[test]
    fn run_lengths_alone_and_in_a_list() {
        let left = json!({"size": [1, 4], "counts": [0, 1, 3]});
        let right = json!({"size": [1.0, "4"], "counts": [3, 1]});
        let both = json!([left, right]);
        assert_eq!(Mask::from_segmentation(4, 1, &both).unwrap().data, [1, 0, 0, 1]);
        assert_eq!(Mask::parts_of_segmentation(4, 1, &both).unwrap().len(), 2);
        let bytes = json!({"size": [1, 4], "counts": "b'0132'"});
        let error = Mask::from_segmentation(4, 1, &bytes).unwrap_err().to_string();
        assert!(error.contains("bytes") && error.contains("decode"), "{error}");
    }

    #[test]
    fn pixels_and_shares_are_no_outlines() {
        let row = [255; 20];
        for pixels in [
            json!([[0, 0, 1], [0, 1, 1]]),
            json!([[[false, true, true, true]]]),
            json!([0, 0, 1, 1, 0, 0, 1, 1, 0, 0]),
            json!(vec![row; 16]),
            json!(vec![0.5; 320]),
        ] {
            assert!(refuse_pixels(&pixels, 20, 16).unwrap_err().to_string().contains("pixels"), "{pixels}");
        }
        for outline in
            [json!([[0, 0, 1, 0, 1, 1]]), json!([0, 0, 9, 0, 9, 9]), json!([[1, 1], [3, 3], [1, 3]])]
        {
            assert!(refuse_pixels(&outline, 20, 16).is_ok(), "{outline}");
        }
        assert!(refuse_shares(&[vec![0.1, 0.1, 0.9, 0.1, 0.9, 0.8]], 20, 16).is_err());
        assert!(refuse_shares(&[vec![0.0, 0.0, 1.0, 0.0, 1.0, 1.0]], 20, 16).is_ok());
    }

    #[test]
    fn what_is_no_segmentation_is_refused_in_few_words() {
        assert!(matches!(parts_of(&json!(null)), Err(MaskError::Kind(_))));
        assert!(matches!(parts_of(&json!([[1, 2, "a"]])), Err(MaskError::Polygon(_))));
        assert!(matches!(parts_of(&json!(["a"])), Err(MaskError::Polygon(_))));
        assert!(parts_of(&json!([[1, null, 3, 4]])).unwrap_err().to_string().contains("NaN"));
        let deep = json!([[[[[[1, 2, 3, 4, 5, 6]]]]]]);
        let error = parts_of(&deep).unwrap_err().to_string();
        assert!(error.len() < 200, "{error}");
        let long = json!("x".repeat(1000));
        assert!(parts_of(&long).unwrap_err().to_string().len() < 200);
    }
}
