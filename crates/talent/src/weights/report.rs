use std::collections::BTreeMap;
use std::fmt;

use weight_files::Element;

use super::WeightsError;

/// Which tensors may be missing from a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Strictness {
    /// Tensors whose official names start with one of these prefixes may be missing; they keep their values.
    pub allow_missing: Vec<String>,
}

impl Strictness {
    pub(super) fn allows(&self, name: &str) -> bool {
        self.allow_missing.iter().any(|prefix| name.starts_with(prefix.as_str()))
    }
}

/// A dtype conversion between file and network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cast {
    /// Element type in the file.
    pub from: Element,
    /// Dtype in the network, for example `Float`.
    pub to: String,
}

/// Result of matching the tensors of a file with those of a network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// The naming scheme of the file.
    pub layout: String,
    /// Number of tensors of the network that were filled.
    pub matched: usize,
    /// Tensors of the network that the file lacks.
    pub missing: Vec<String>,
    /// Tensors of the network that the file lacks and that were allowed to be missing.
    pub tolerated: Vec<String>,
    /// Tensors of the file that match none of the network.
    pub unexpected: Vec<String>,
    /// Tensors of different shapes: name, shape in the file, shape in the network.
    pub mismatched: Vec<(String, Vec<usize>, Vec<i64>)>,
    /// Number of tensors of the file that belong to another network, for example CLIP's image tower.
    pub ignored: usize,
    /// Number of tensors by dtype conversion.
    pub casts: BTreeMap<Cast, usize>,
}

impl LoadReport {
    /// Whether all tensors match: none missing, unexpected or of a different shape.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.mismatched.is_empty()
    }

    /// The report if it is complete, otherwise [`WeightsError::Mismatch`] for the file `path`.
    pub(super) fn unless_incomplete(self, path: String) -> Result<Self, WeightsError> {
        if self.is_complete() {
            Ok(self)
        } else {
            Err(WeightsError::Mismatch { path, report: Box::new(self) })
        }
    }
}

/// Number of names that are listed before "and N more".
const LISTED: usize = 8;

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} tensors matched", self.layout, self.matched)?;
        let counts = [
            (self.missing.len(), "missing"),
            (self.unexpected.len(), "unexpected"),
            (self.mismatched.len(), "of another shape"),
            (self.tolerated.len(), "missing as allowed"),
            (self.ignored, "ignored"),
        ];
        for (n, what) in counts.into_iter().filter(|(n, _)| *n > 0) {
            write!(f, ", {n} {what}")?;
        }
        for (cast, n) in &self.casts {
            write!(f, ", {n} cast from {} to {}", cast.from, cast.to)?;
        }
        let shapes = self.mismatched.iter().map(|(name, found, expected)| {
            format!("`{name}` has shape {found:?}, but this model has {expected:?}")
        });
        list(f, "another shape", shapes)?;
        list(f, "missing", self.missing.iter().map(|name| format!("`{name}`")))?;
        list(f, "unexpected", self.unexpected.iter().map(|name| format!("`{name}`")))
    }
}

fn list(
    f: &mut fmt::Formatter<'_>,
    title: &str,
    entries: impl ExactSizeIterator<Item = String>,
) -> fmt::Result {
    let n = entries.len();
    if n == 0 {
        return Ok(());
    }
    let shown: Vec<String> = entries.take(LISTED).collect();
    write!(f, "\n  {title}: {}", shown.join("; "))?;
    if n > LISTED { write!(f, "; and {} more", n - LISTED) } else { Ok(()) }
}
