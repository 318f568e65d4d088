//! Naming schemes: how the tensors of a file become those of an encoder.

use crate::error::Error;
use crate::file::WeightFile;
use crate::settings::Settings;

/// How a stored tensor becomes an official one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// As it is.
    Copy,
    /// The `index`th of three equal stacks of rows: queries, keys and values in this order.
    Third(usize),
    /// Rows and columns exchanged.
    Transpose,
}

/// Where a stored tensor goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its name in the file.
    pub source: String,
    /// The official name it fills, without the encoder's prefix.
    pub target: String,
    /// How.
    pub step: Step,
}

/// What `config.json` says and no tensor reveals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EncoderFacts {
    /// Attention heads.
    pub n_heads: Option<i64>,
}

/// How to fill an encoder from a file.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderPlan {
    /// The naming scheme, for reports.
    pub layout: &'static str,
    /// Tensors to use.
    pub parts: Vec<Part>,
    /// Tensors that belong to something else and are known to: the image tower of a CLIP file, for one.
    pub ignored: Vec<String>,
    /// Tensors that nothing is known about.
    pub unexpected: Vec<String>,
    /// What the configuration beside the weights says; all open if there is none.
    pub facts: EncoderFacts,
}

/// A naming scheme that an encoder is published in.
#[derive(Debug)]
pub struct Layout {
    /// Its name in reports.
    pub name: &'static str,
    /// What may stand in front of all names; the first is taken with which the file holds the mark.
    pub prefixes: &'static [&'static str],
    /// A tensor, without the prefix, that files of this layout hold and those of others do not.
    pub mark: &'static str,
    /// Where a tensor goes, by its name without the prefix.
    pub target: fn(&str) -> Option<(String, Step)>,
    /// The same for tensors that stand beside what has the prefix, by their whole name.
    pub beside: fn(&str) -> Option<(String, Step)>,
    /// Whether a tensor, by its whole name, is known to belong to something else.
    pub elsewhere: fn(&str) -> bool,
    /// Reads the configuration beside the weights; an error if the file's network computes something else than ours.
    pub facts: fn(&Settings<'_>) -> Result<EncoderFacts, String>,
    /// A target that must be among the tensors, and what to say if it is not.
    pub needs: Option<(&'static str, &'static str)>,
}

/// [`Layout::beside`] of a layout in which everything has the prefix.
pub fn nothing_beside(_: &str) -> Option<(String, Step)> {
    None
}

/// [`Layout::target`] of a layout with the official names.
pub fn as_named(name: &str) -> Option<(String, Step)> {
    Some((name.to_owned(), Step::Copy))
}

/// [`Layout::facts`] of a layout without a configuration.
pub fn no_facts(_: &Settings<'_>) -> Result<EncoderFacts, String> {
    Ok(EncoderFacts::default())
}

/// Finds out which of an encoder's naming schemes a file uses, and which of its tensors are which of the encoder's.
///
/// - wanted: what the encoder is, for the error
///
/// # Errors
/// When the file uses none of the schemes, or holds an encoder that computes something else than ours.
pub fn encoder_plan(file: &WeightFile, wanted: &str, layouts: &[Layout]) -> Result<EncoderPlan, Error> {
    let found = layouts.iter().find_map(|layout| {
        let has_mark = |prefix: &&&str| file.info(&format!("{prefix}{}", layout.mark)).is_some();
        layout.prefixes.iter().find(has_mark).map(|prefix| (layout, *prefix))
    });
    let Some((layout, prefix)) = found else {
        let first: Vec<&str> = file.tensors().map(|(name, _)| name).take(3).collect();
        let what = format!("no sign of {wanted}; it begins with {}", first.join(", "));
        return Err(Error::malformed(file.path(), what));
    };
    let facts = match file.config() {
        Some(config) => (layout.facts)(&Settings::new(config)),
        None => Ok(EncoderFacts::default()),
    };
    let facts = facts.map_err(|what| Error::malformed(file.path(), what))?;
    let mut plan =
        EncoderPlan { layout: layout.name, parts: vec![], ignored: vec![], unexpected: vec![], facts };
    for (name, _) in file.tensors() {
        if (layout.elsewhere)(name) {
            plan.ignored.push(name.to_owned());
            continue;
        }
        let behind = || name.strip_prefix(prefix).and_then(layout.target);
        match (layout.beside)(name).or_else(behind) {
            Some((target, step)) => plan.parts.push(Part { source: name.to_owned(), target, step }),
            None => plan.unexpected.push(name.to_owned()),
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
