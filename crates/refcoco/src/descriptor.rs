use serde::Deserialize;

use crate::error::{Error, Result};

/// Which data set, where its files lie below the data root, and what it should hold: one `datasets/*.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Descriptor {
    /// The name used on the command line.
    pub name: String,
    /// What the data set is, in one line.
    pub about: String,
    /// Folder of the annotations below the data root.
    pub folder: String,
    /// The refs file in that folder.
    pub refs: String,
    /// Image folders or zip archives below the data root, the first that exists is used.
    pub images: Vec<String>,
    /// Whether an image may be in several splits, by design of the data set.
    #[serde(default)]
    pub splits_share_images: bool,
    /// Words per expression that the official configuration uses (start and end tokens included).
    pub word_len: usize,
    /// The split models are selected on.
    pub val: String,
    /// The splits that are reported besides.
    pub test: Vec<String>,
    /// Refs per split in the published files; empty if the set is generated.
    #[serde(default)]
    pub expected_refs: std::collections::BTreeMap<String, usize>,
}

const BUILT_IN: [&str; 7] = [
    include_str!("../../../datasets/refshapes.toml"),
    include_str!("../../../datasets/refcoco.toml"),
    include_str!("../../../datasets/refcoco+.toml"),
    include_str!("../../../datasets/refcocog_u.toml"),
    include_str!("../../../datasets/refcocog_g.toml"),
    include_str!("../../../datasets/refclef_unc.toml"),
    include_str!("../../../datasets/refclef_berkeley.toml"),
];

impl Descriptor {
    /// Parses a descriptor.
    ///
    /// # Errors
    /// When a key is missing, unknown or of another type.
    pub fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|error: toml::de::Error| Error::Descriptor {
            name: text.lines().next().unwrap_or_default().to_owned(),
            what: error.message().to_owned(),
        })
    }

    /// The data sets this crate knows.
    ///
    /// # Errors
    /// Never with the descriptors as shipped; a test holds them to it.
    pub fn all() -> Result<Vec<Self>> {
        BUILT_IN.iter().map(|text| Self::parse(text)).collect()
    }

    /// The data set of this name.
    ///
    /// # Errors
    /// [`Error::UnknownDataset`] lists the known ones.
    pub fn named(name: &str) -> Result<Self> {
        let all = Self::all()?;
        let known = all.iter().map(|descriptor| descriptor.name.as_str()).collect::<Vec<_>>().join(", ");
        all.into_iter()
            .find(|descriptor| descriptor.name == name)
            .ok_or(Error::UnknownDataset { name: name.to_owned(), known })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_descriptor_parses() {
        assert_eq!(Descriptor::all().unwrap().len(), BUILT_IN.len());
        assert_eq!(Descriptor::named("refcocog_u").unwrap().word_len, 22);
        assert!(matches!(Descriptor::named("coco"), Err(Error::UnknownDataset { .. })));
    }
}
