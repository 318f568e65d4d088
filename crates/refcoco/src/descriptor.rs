use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result, io_error, or_mistaken};
use crate::regular_file::read_regular;

/// Format of a data set's annotation files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AnnotationFormat {
    /// `refs(...).p` with `instances.json`, the layout of the REFER tools: one target per ref.
    #[default]
    Refer,
    /// `grefs(...).json` with `instances.json`: none, one or several targets per ref.
    Grefcoco,
    /// One JSONL file beside its images, see [`read_own`](crate::read_own).
    Own,
    /// RefSegRS: `output_phrase_SPLIT.txt`, and folders `images` and `masks`.
    Refsegrs,
    /// ReasonSeg: folders `train`, `val`, `test` with one JSON file beside each image.
    Reasonseg,
    /// aRefCOCO: expressions in one JSON file, objects from RefCOCO and RefCOCOg.
    Arefcoco,
    /// D-cube: four pickles.
    D3,
}

impl AnnotationFormat {
    /// Whether file names of images are relative to the annotations' folder.
    pub(crate) fn has_images_beside(self) -> bool {
        matches!(self, Self::Own | Self::Refsegrs | Self::Reasonseg)
    }

    /// Whether a segmentation may be the name of a mask file.
    pub(crate) fn has_mask_files(self) -> bool {
        matches!(self, Self::Own | Self::Refsegrs)
    }
}

/// Describes a data set: its name, its files below the data root, and its expected contents. One `descriptors/*.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Descriptor {
    /// Name used on the command line.
    pub name: String,
    /// Description in one line.
    pub about: String,
    /// Format of the annotation files.
    #[serde(default)]
    pub format: AnnotationFormat,
    /// Folder of the annotations below the data root.
    pub folder: String,
    /// Other folders in which the annotations may be; the first that exists is used.
    #[serde(default)]
    pub other_folders: Vec<String>,
    /// Name of the refs file in that folder; empty for formats of several files.
    #[serde(default)]
    pub refs: String,
    /// Image folders or zip archives below the data root; the first that exists is used. Own data needs none: its images lie
    /// beside its JSONL file.
    #[serde(default)]
    pub images: Vec<String>,
    /// Whether an image may be in several splits, by design of the data set.
    #[serde(default)]
    pub splits_share_images: bool,
    /// Token ids per expression in the official configuration (start and end tokens included).
    pub word_len: usize,
    /// Split used for model selection.
    pub val: String,
    /// Other splits that are reported.
    pub test: Vec<String>,
    /// Number of refs per split in the published files; empty if the set is generated.
    #[serde(default)]
    pub expected_refs: BTreeMap<String, usize>,
}

const BUILT_IN: [&str; 17] = [
    include_str!("../descriptors/refshapes.toml"),
    include_str!("../descriptors/refshapes_nta.toml"),
    include_str!("../descriptors/refshapes_shifted.toml"),
    include_str!("../descriptors/refshapes_pretrain.toml"),
    include_str!("../descriptors/refcoco.toml"),
    include_str!("../descriptors/refcoco+.toml"),
    include_str!("../descriptors/refcocog_u.toml"),
    include_str!("../descriptors/refcocog_g.toml"),
    include_str!("../descriptors/grefcoco.toml"),
    include_str!("../descriptors/refclef_unc.toml"),
    include_str!("../descriptors/refclef_berkeley.toml"),
    include_str!("../descriptors/rrsisd.toml"),
    include_str!("../descriptors/refsegrs.toml"),
    include_str!("../descriptors/refcoco_m.toml"),
    include_str!("../descriptors/arefcoco.toml"),
    include_str!("../descriptors/reasonseg.toml"),
    include_str!("../descriptors/d3.toml"),
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
        let wrong = |what: String| Error::Descriptor { name: name.to_owned(), what };
        let parsed: Self =
            toml::from_str(text).map_err(|error: toml::de::Error| wrong(error.message().to_owned()))?;
        match (2..=MAX_WORD_LEN).contains(&parsed.word_len) {
            true => Ok(parsed),
            false => Err(wrong(format!("word_len is {}, it must be 2 to {MAX_WORD_LEN}", parsed.word_len))),
        }
    }

    /// Lists the built-in data sets.
    ///
    /// # Errors
    /// Never with the bundled descriptors, which a test checks.
    pub fn all() -> Result<Vec<Self>> {
        BUILT_IN.iter().map(|text| Self::parse(text)).collect()
    }

    /// Finds a built-in data set by name.
    ///
    /// # Errors
    /// [`Error::UnknownDataset`] lists the known ones.
    pub fn named(name: &str) -> Result<Self> {
        Self::find(name, Path::new(""))
    }

    /// Finds a data set by name, built in or the user's own. For own data:
    ///
    /// - a name that ends in `.jsonl` is the path of a JSONL file, below the data root or from the working folder
    /// - `DATA_ROOT/NAME.toml` is a descriptor; it wins over a built-in one ([`Descriptor::override_of`])
    /// - `DATA_ROOT/NAME/refs.jsonl` needs no descriptor
    ///
    /// # Errors
    /// [`Error::UnknownDataset`] lists the known ones; [`Error::Descriptor`] when `NAME.toml` is malformed.
    pub fn find(name: &str, data_root: &Path) -> Result<Self> {
        if let Some(described) = Self::file_of(name, data_root) {
            let bytes = read_regular(&described)?;
            let text = std::str::from_utf8(file_kind::without_mark(&bytes)).map_err(|error| {
                io_error(&described)(std::io::Error::new(std::io::ErrorKind::InvalidData, error))
            })?;
            return Self::parse_named(text, &described.display().to_string())
                .map_err(|error| or_mistaken(&described, error));
        }
        let all = Self::all()?;
        if let Some(known) = all.iter().find(|descriptor| descriptor.name == name) {
            return Ok(known.clone());
        }
        if name.ends_with(".jsonl") {
            // Below the data root, or as a path of its own.
            let elsewhere = Path::new(name).canonicalize().ok().filter(|_| !data_root.join(name).is_file());
            let path = elsewhere.map_or_else(|| name.to_owned(), |path| path.to_string_lossy().into_owned());
            return Ok(Self::own(name, "", &path));
        }
        if data_root.join(name).join(OWN_FILE).is_file() {
            return Ok(Self::own(name, name, OWN_FILE));
        }
        let known = all.iter().map(|descriptor| descriptor.name.as_str()).collect::<Vec<_>>().join(", ");
        Err(Error::UnknownDataset { name: name.to_owned(), known })
    }

    /// The folder of the annotations: the first of [`Descriptor::folder`] and the others that exists.
    pub(crate) fn folder_below(&self, data_root: &Path) -> PathBuf {
        let folders = std::iter::once(&self.folder).chain(&self.other_folders);
        let mut folders = folders.map(|folder| data_root.join(folder));
        folders.find(|folder| folder.is_dir()).unwrap_or_else(|| data_root.join(&self.folder))
    }

    /// Whether the file of the refs is below a data root, or the folder for formats of several files.
    pub fn is_present(&self, data_root: &Path) -> bool {
        let path = self.folder_below(data_root).join(&self.refs);
        if self.refs.is_empty() { path.is_dir() } else { path.is_file() }
    }

    /// `DATA_ROOT/NAME.toml`, if it exists.
    fn file_of(name: &str, data_root: &Path) -> Option<PathBuf> {
        let is_name = !name.is_empty() && !name.contains(['/', '\\']) && data_root != Path::new("");
        is_name.then(|| data_root.join(format!("{name}.toml"))).filter(|path| path.is_file())
    }

    /// The file below a data root that is used in place of the built-in descriptor of this name.
    pub fn override_of(name: &str, data_root: &Path) -> Option<PathBuf> {
        let is_built_in = Self::named(name).is_ok();
        Self::file_of(name, data_root).filter(|_| is_built_in)
    }

    /// Lists the data sets that a `NAME.toml` below a data root describes, sorted by name; each may be malformed.
    ///
    /// # Errors
    /// When the data root exists and cannot be read.
    pub fn described_below(data_root: &Path) -> Result<Vec<(String, Result<Self>)>> {
        let names = names_below(data_root)?;
        let names = names.iter().filter_map(|name| name.strip_suffix(".toml"));
        Ok(names.map(|name| (name.to_owned(), Self::find(name, data_root))).collect())
    }

    /// Lists the user's own data sets below a data root, sorted by name: folders with a `refs.jsonl`. Built-in data sets are
    /// not included.
    ///
    /// # Errors
    /// When the data root exists and cannot be read.
    pub fn own_below(data_root: &Path) -> Result<Vec<Self>> {
        let names = names_below(data_root)?;
        let own = names.into_iter().filter(|name| data_root.join(name).join(OWN_FILE).is_file());
        own.map(|name| Self::find(&name, data_root)).collect()
    }

    fn own(name: &str, folder: &str, refs: &str) -> Self {
        Self {
            name: name.to_owned(),
            about: "own data".to_owned(),
            format: AnnotationFormat::Own,
            folder: folder.to_owned(),
            other_folders: Vec::new(),
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

/// No text encoder takes more tokens.
const MAX_WORD_LEN: usize = 8192;

/// Names of the entries of a folder, sorted; none if there is no such folder.
fn names_below(folder: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error(folder)(error)),
    };
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

/// A folder below the data root with this file is an own data set.
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
