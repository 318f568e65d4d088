use std::path::Path;

use metrics::Evaluated;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

const FILE: &str = "expressions.jsonl";

/// A line of `expressions.jsonl`: the final evaluation's measurements of one expression.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExpressionLine {
    /// Split of the expression.
    pub split: String,
    /// Measurements of the expression.
    #[serde(flatten)]
    pub evaluated: Evaluated,
}

/// Writes `expressions.jsonl` for the given splits.
///
/// # Errors
/// When the file cannot be written.
pub fn write_expressions(run: &Path, splits: Vec<(String, Vec<Evaluated>)>) -> Result<()> {
    let path = run.join(FILE);
    let mut text = String::new();
    for (split, expressions) in splits {
        for evaluated in expressions {
            let line = serde_json::to_string(&ExpressionLine { split: split.clone(), evaluated });
            text.push_str(&line.map_err(|source| Error::Document { path: path.clone(), source })?);
            text.push('\n');
        }
    }
    Ok(whole_file::write(&path, text.as_bytes())?)
}

/// Reads a run's `expressions.jsonl`.
///
/// # Errors
/// When the file cannot be read, or a line is malformed.
pub fn read_expressions(run: &Path) -> Result<Vec<ExpressionLine>> {
    let path = run.join(FILE);
    let parse = |line: refcoco::Result<(usize, String)>| {
        let (number, line) = line?;
        serde_json::from_str(&line).map_err(|error| Error::Line {
            path: path.clone(),
            number,
            what: error.to_string(),
        })
    };
    refcoco::read_lines(&path)?.map(parse).collect()
}
