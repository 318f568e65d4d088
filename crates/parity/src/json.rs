//! Reading JSON with errors that say what is missing.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

pub(crate) fn integer(value: &Value, key: &str) -> Result<i64> {
    value.get(key).and_then(Value::as_i64).with_context(|| format!("an entry lacks the integer `{key}`"))
}

pub(crate) fn number(value: &Value, key: &str) -> Result<f64> {
    value.get(key).and_then(Value::as_f64).with_context(|| format!("an entry lacks the number `{key}`"))
}

pub(crate) fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    value.get(key).and_then(Value::as_str).with_context(|| format!("an entry lacks the text `{key}`"))
}

pub(crate) fn entries<'a>(value: &'a Value, key: &str) -> Result<&'a Vec<Value>> {
    value.get(key).and_then(Value::as_array).with_context(|| format!("an entry lacks the list `{key}`"))
}

pub(crate) fn integers(value: &Value, key: &str) -> Result<Vec<i64>> {
    Ok(entries(value, key)?.iter().filter_map(Value::as_i64).collect())
}

pub(crate) fn as_list<'a>(value: &'a Value, what: &str) -> Result<&'a Vec<Value>> {
    value.as_array().with_context(|| format!("{what} is no list"))
}
