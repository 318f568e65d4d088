//! JSON files that are small enough to be read whole.

use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result, or_mistaken};
use crate::reader::json_text;
use crate::regular_file::read_regular;

/// Reads a JSON file. A byte order mark is left out, and `NaN` and `Infinity`, which Python writes, become null.
///
/// # Errors
/// Names the file: not a regular file, unreadable, malformed JSON (with its position), or what stands in its place.
pub fn read_json(path: &Path) -> Result<Value> {
    let bytes = read_regular(path)?;
    serde_json::from_slice(&json_text(&bytes))
        .map_err(|source| or_mistaken(path, Error::Json { path: path.to_path_buf(), source }))
}
