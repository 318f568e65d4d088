use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result, io_error};

/// How a data set's annotation files are laid out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AnnotationFormat {
    /// `refs(...).p` with `instances.json`, as the REFER tools have them: one target per ref.
    #[default]
    Refer,
    /// `grefs(...).json` with `instances.json`: none, one or several targets per ref.
    Grefcoco,
    /// One JSONL file beside its images, see [`read_own`](crate::read_own).
    Own,
}

/// Which data set, where its files lie below the data root, and what it should hold: one `descriptors/*.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Descriptor {
    /// The name used on the command line.
    pub name: String,
    /// What the data set is, in one line.
    pub about: String,
    /// How its annotation files are laid out.
    #[serde(default)]
    pub format: AnnotationFormat,
    /// Folder of the annotations below the data root.
    pub folder: String,
    /// The refs file in that folder.
    pub refs: String,
    /// Image folders or zip archives below the data root, the first that exists is used. Own data needs none: its
    /// images lie beside its JSONL file.
    #[serde(default)]
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
    pub expected_refs: BTreeMap<String, usize>,
}

const BUILT_IN: [&str; 10] = [
    include_str!("../descriptors/refshapes.toml"),
    include_str!("../descriptors/refshapes_nta.toml"),
    include_str!("../descriptors/refshapes_pretrain.toml"),
    include_str!("../descriptors/refcoco.toml"),
    include_str!("../descriptors/refcoco+.toml"),
    include_str!("../descriptors/refcocog_u.toml"),
    include_str!("../descriptors/refcocog_g.toml"),
    include_str!("../descriptors/grefcoco.toml"),
    include_str!("../descriptors/refclef_unc.toml"),
    include_str!("../descriptors/refclef_berkeley.toml"),
];

impl Descriptor {
    /// Parses a descriptor.
    ///
    /// # Errors
    /// When a key is missing, unknown or of another type.
    pub fn parse(text: &str) -> Result<Self> {
        Self::parse_named(text, text.lines().next().unwrap_or_default())
    }

    fn parse_named(text: &str, name: &str) -> Result<Self> {
        toml::from_str(text).map_err(|error: toml::de::Error| Error::Descriptor {
            name: name.to_owned(),
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

    /// The data set of this name that this crate knows.
    ///
    /// # Errors
    /// [`Error::UnknownDataset`] lists the known ones.
    pub fn named(name: &str) -> Result<Self> {
        Self::find(name, Path::new(""))
    }

    /// The data set of this name: one that this crate knows, or the user's own.
    ///
    /// - a name that ends in `.jsonl` is the path of a JSONL file
    /// - `DATA_ROOT/NAME.toml` is a descriptor
    /// - `DATA_ROOT/NAME/refs.jsonl` needs no descriptor
    ///
    /// # Errors
    /// [`Error::UnknownDataset`] lists the known ones; [`Error::Descriptor`] when `NAME.toml` is malformed.
    pub fn find(name: &str, data_root: &Path) -> Result<Self> {
        let all = Self::all()?;
        if let Some(known) = all.iter().find(|descriptor| descriptor.name == name) {
            return Ok(known.clone());
        }
        if name.ends_with(".jsonl") {
            return Ok(Self::own(name, "", name));
        }
        let described = data_root.join(format!("{name}.toml"));
        if described.is_file() {
            let text = std::fs::read_to_string(&described).map_err(io_error(&described))?;
            return Self::parse_named(&text, &described.display().to_string());
        }
        if data_root.join(name).join(OWN_FILE).is_file() {
            return Ok(Self::own(name, name, OWN_FILE));
        }
        let known = all.iter().map(|descriptor| descriptor.name.as_str()).collect::<Vec<_>>().join(", ");
        Err(Error::UnknownDataset { name: name.to_owned(), known })
    }

    /// Own data below a data root, by name: folders with a `refs.jsonl`. Known data sets are not among them.
    ///
    /// # Errors
    /// When the data root exists and cannot be read.
    pub fn own_below(data_root: &Path) -> Result<Vec<Self>> {
        let entries = match std::fs::read_dir(data_root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io_error(data_root)(error)),
        };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| data_root.join(name).join(OWN_FILE).is_file())
            .collect();
        names.sort();
        names.into_iter().map(|name| Self::find(&name, data_root)).collect()
    }

    fn own(name: &str, folder: &str, refs: &str) -> Self {
        Self {
            name: name.to_owned(),
            about: "own data".to_owned(),
            format: AnnotationFormat::Own,
            folder: folder.to_owned(),
            refs: refs.to_owned(),
            images: Vec::new(),
            splits_share_images: false,
            word_len: 22,
            val: "val".to_owned(),
            test: ["test", "testA", "testB"].map(str::to_owned).to_vec(),
            expected_refs: BTreeMap::new(),
        }
    }
}

/// The file that makes a folder below the data root a data set.
const OWN_FILE: &str = "refs.jsonl";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_data_is_found_by_folder_by_file_and_by_descriptor() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("street")).unwrap();
        std::fs::write(root.path().join("street/refs.jsonl"), "").unwrap();
        assert_eq!(Descriptor::find("street", root.path()).unwrap().format, AnnotationFormat::Own);
        assert_eq!(Descriptor::own_below(root.path()).unwrap().len(), 1);
        let by_file = Descriptor::find("a/b.jsonl", root.path()).unwrap();
        assert_eq!((by_file.format, by_file.refs.as_str()), (AnnotationFormat::Own, "a/b.jsonl"));

        let mut text = include_str!("../descriptors/refcoco.toml").to_owned();
        std::fs::write(root.path().join("mine.toml"), text.replace("\"refcoco\"", "\"mine\"")).unwrap();
        assert_eq!(Descriptor::find("mine", root.path()).unwrap().name, "mine");
        text.insert_str(0, "wordlen = 3\n");
        std::fs::write(root.path().join("mine.toml"), text).unwrap();
        let error = Descriptor::find("mine", root.path()).unwrap_err().to_string();
        assert!(error.contains("mine.toml"), "{error}");
    }

    #[test]
    fn every_descriptor_parses() {
        assert_eq!(Descriptor::all().unwrap().len(), BUILT_IN.len());
        assert_eq!(Descriptor::named("refcocog_u").unwrap().word_len, 22);
        assert!(matches!(Descriptor::named("coco"), Err(Error::UnknownDataset { .. })));
    }
}
