//! Recorded pictures and masks.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use refcoco::{Mask, read_image};
use serde_json::Value;

use crate::case::Case;
use crate::json::as_list;
use crate::report::{Comparison, Tolerance};

/// The number in a name such as `letterbox448`.
pub(crate) fn side_of(name: &str, kind: &str) -> Option<usize> {
    name.strip_prefix(kind)?.parse().ok()
}

/// The lists of `letterbox.json`, with the side of their square input.
pub(crate) fn letterbox_lists(json: &Value) -> Result<Vec<(usize, &Vec<Value>)>> {
    let lists = json.as_object().context("letterbox.json is no object")?;
    let lists = lists.iter().map(|(key, list)| {
        let side = side_of(key, "letterbox")
            .with_context(|| format!("letterbox.json has an unknown key `{key}`"))?;
        Ok((side, as_list(list, key)?))
    });
    lists.collect()
}

/// Compares bytes exactly; the error is the largest difference in levels.
pub(crate) fn compare_bytes(case: &mut Case, label: &str, found: &[u8], expected: &[u8]) {
    if found.len() != expected.len() {
        case.check(&format!("{label}: {} bytes, {} recorded", found.len(), expected.len()), false);
        return;
    }
    let error = found.iter().zip(expected).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0);
    case.record(Comparison::new(label, f64::from(error), 255.0, Tolerance::Exact));
}

/// The first channel of a picture.
pub(crate) fn grey(path: &Path) -> Result<Mask> {
    let image = read_image(path)?;
    let data = image.data.chunks_exact(3).map(|pixel| pixel[0]).collect();
    Ok(Mask { width: image.width, height: image.height, data })
}

/// A mask that the conversion script wrote, as 0 and 1. Its pixels are 0 or 255, but 254 or less where parts overlap, which is
/// refused here.
pub(crate) fn binary(path: &Path) -> Result<Mask> {
    let source = grey(path)?;
    ensure!(source.data.iter().all(|value| [0, 255].contains(value)), "{} is not binary", path.display());
    Ok(Mask { data: source.data.iter().map(|value| value / 255).collect(), ..source })
}
