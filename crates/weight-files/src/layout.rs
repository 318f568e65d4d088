//! Naming schemes: map the tensors of a file to the parameters of an encoder.

use crate::error::Error;
use crate::file::WeightFile;
use crate::wrapping::{family, wrappers};

/// How a stored tensor is converted to a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Copied unchanged.
    Copy,
    /// The `index`th of three equal blocks of rows: query, key and value weights, in this order.
    Third(usize),
    /// Transposed.
    Transpose,
    /// Rows of a position table, `[1, n, D]`. A table without the class token's row fills the rows behind the first, which becomes
    /// 0: timm adds that row to the class token itself.
    Positions,
}

/// Maps a stored tensor to a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Name of the tensor in the file.
    pub source: String,
    /// Official name of the parameter, without the encoder's prefix.
    pub target: String,
    /// How the tensor is converted.
    pub step: Step,
}

/// How to fill an encoder from a file.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderPlan {
    /// Name of the naming scheme, for reports.
    pub layout: &'static str,
    /// What training programs have put in front of all names, such as `teacher/backbone.`; usually empty.
    pub wrapping: String,
    /// Tensors to load.
    pub parts: Vec<Part>,
    /// Tensors known to belong to something else, for example to the image tower of a CLIP file.
    pub ignored: Vec<String>,
    /// Tensors that are not recognised.
    pub unexpected: Vec<String>,
}

/// A naming scheme that an encoder is published in.
#[derive(Debug)]
pub struct Layout {
    /// Name for reports.
    pub name: &'static str,
    /// Prefixes that tensor names may have. The first one with which the file holds [`mark`](Layout::mark) is used.
    pub prefixes: &'static [&'static str],
    /// Name, without the prefix, of a tensor that files of this layout have and files of other layouts do not.
    pub mark: &'static str,
    /// Maps a tensor to a parameter, by its name without the prefix.
    pub target: fn(&str) -> Option<(String, Step)>,
    /// Maps a tensor that does not have the prefix to a parameter, by its full name.
    pub beside: fn(&str) -> Option<(String, Step)>,
    /// Whether a tensor, by its full name, is known to belong to something else.
    pub elsewhere: fn(&str) -> bool,
    /// A target that must be present, and the error message if it is not.
    pub needs: Option<(&'static str, &'static str)>,
}

/// [`Layout::beside`] for a layout in which every tensor has the prefix.
pub fn nothing_beside(_: &str) -> Option<(String, Step)> {
    None
}

/// [`Layout::target`] for a layout with the official names.
pub fn as_named(name: &str) -> Option<(String, Step)> {
    Some((name.to_owned(), Step::Copy))
}

/// Detects which of the naming schemes a file uses, and maps its tensors to the encoder's parameters.
///
/// - wanted: name of the encoder, for the error message
///
/// # Errors
/// When the file uses none of the schemes, or lacks a required tensor.
pub fn encoder_plan(file: &WeightFile, wanted: &str, layouts: &[Layout]) -> Result<EncoderPlan, Error> {
    let wrappers = wrappers(file);
    let found = wrappers.iter().find_map(|wrapping| {
        layouts.iter().find_map(|layout| {
            let has_mark =
                |prefix: &&&str| file.info(&format!("{wrapping}{prefix}{}", layout.mark)).is_some();
            layout.prefixes.iter().find(has_mark).map(|prefix| (wrapping, layout, *prefix))
        })
    });
    let Some((wrapping, layout, prefix)) = found else {
        let first: Vec<&str> = file.tensors().map(|(name, _)| name).take(3).collect();
        let family = family(file).map_or_else(String::new, |what| format!("; the names look like {what}"));
        let what = format!("no sign of {wanted}; it begins with {}{family}", first.join(", "));
        return Err(Error::malformed(file.path(), what));
    };
    let mut plan = EncoderPlan {
        layout: layout.name,
        wrapping: wrapping.clone(),
        parts: vec![],
        ignored: vec![],
        unexpected: vec![],
    };
    for (stored, _) in file.tensors() {
        // What stands beside the wrapped network belongs to the training program: other networks, heads, optimisers.
        let Some(name) = stored.strip_prefix(wrapping.as_str()).filter(|name| !(layout.elsewhere)(name))
        else {
            plan.ignored.push(stored.to_owned());
            continue;
        };
        let after_prefix = || name.strip_prefix(prefix).and_then(layout.target);
        match (layout.beside)(name).or_else(after_prefix) {
            Some((target, step)) => plan.parts.push(Part { source: stored.to_owned(), target, step }),
            None => plan.unexpected.push(stored.to_owned()),
        }
    }
    if let Some((target, what)) = layout.needs
        && !plan.parts.iter().any(|part| part.target == target)
    {
        return Err(Error::malformed(file.path(), what));
    }
    Ok(plan)
}

/// Splits `11.norm1.weight` into its number and the rest.
pub fn numbered(name: &str) -> Option<(usize, &str)> {
    let (index, rest) = name.split_once('.')?;
    Some((index.parse().ok()?, rest))
}
