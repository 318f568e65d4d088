use std::path::PathBuf;

/// An error in a data set. Names the file and record at fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// Something else stands in the place of a file: a git-lfs pointer, a web page, nothing.
    #[error("{}: {what}", path.display())]
    Mistaken {
        /// The file.
        path: PathBuf,
        /// What it is, and what to do about it.
        what: &'static str,
    },
    /// A refs file is not a readable pickle.
    #[error("{}: {source}", path.display())]
    Pickle {
        /// The file.
        path: PathBuf,
        /// The pickle reader's error.
        source: safe_pickle::Error,
    },
    /// A JSON file is malformed; the message holds line and column.
    #[error("{}: {}", path.display(), json_problem(source))]
    Json {
        /// The file.
        path: PathBuf,
        /// The JSON parser's error.
        source: serde_json::Error,
    },
    /// A record is invalid, for example lacks a field or has one of the wrong type.
    #[error("{}: {record}: {what}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Which record, for example `ref_id 17`.
        record: String,
        /// What is wrong with it.
        what: String,
    },
    /// An image could not be decoded.
    #[error("{}: cannot decode the image: {what}", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// The decoder's error message.
        what: String,
    },
    /// An image's size differs from its record, so its masks would not fit.
    #[error("{}: the image is {}x{}{turned} but its record says {}x{}", path.display(), found.0, found.1, expected.0, expected.1)]
    ImageSize {
        /// The file.
        path: PathBuf,
        /// Width and height of the decoded image.
        found: (usize, usize),
        /// Width and height of the annotation record.
        expected: (usize, usize),
        /// Whether the EXIF orientation explains the difference.
        turned: Turned,
    },
    /// A segmentation cannot be turned into a mask.
    #[error("{}: annotation {ann_id}: {source}", path.display())]
    Segmentation {
        /// The annotation file.
        path: PathBuf,
        /// Id of the annotation.
        ann_id: i64,
        /// What is wrong with it.
        source: MaskError,
    },
    /// An environment variable has an invalid value.
    #[error("environment: {what}")]
    Environment {
        /// Name of the variable, and the value expected.
        what: String,
    },
    /// An expression cannot be used.
    #[error("{what}")]
    Expression {
        /// What is wrong.
        what: String,
    },
    /// A data set's name is unknown.
    #[error(
        "unknown data set `{name}`; known are {known}; own data needs a folder of that name with a refs.jsonl below the data root"
    )]
    UnknownDataset {
        /// The name given.
        name: String,
        /// The known names.
        known: String,
    },
    /// A data set has no such split, or the split is empty.
    #[error("data set `{dataset}` has no split `{split}`; it has {known}")]
    UnknownSplit {
        /// The data set.
        dataset: String,
        /// The requested split.
        split: String,
        /// The splits that the data set has.
        known: String,
    },
    /// The files of a data set are not where they should be.
    #[error("data set `{dataset}`: no {what} below {}; {advice}", root.display())]
    Layout {
        /// The data set.
        dataset: String,
        /// The missing file or folder.
        what: String,
        /// The data root that was searched.
        root: PathBuf,
        /// How to fix it.
        advice: String,
    },
    /// A data set descriptor is malformed.
    #[error("data set descriptor {name}: {what}")]
    Descriptor {
        /// Name or path of the descriptor.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// The settings for RefShapes are invalid, or an image cannot be encoded.
    #[error("refshapes: {0}")]
    RefShapes(String),
    /// A loader thread panicked.
    #[error("a data loader thread failed: {0}")]
    Loader(String),
}

/// Whether a size differs from another one because an image is turned by its EXIF orientation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Turned(pub bool);

impl std::fmt::Display for Turned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            true => f.write_str(" (turned by its EXIF orientation, for which the annotation was not made)"),
            false => Ok(()),
        }
    }
}

/// Why a segmentation cannot be converted to a mask.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MaskError {
    /// A polygon has fewer than three points, an odd number of coordinates, or coordinates that are not numbers.
    #[error("malformed polygon: {0}")]
    Polygon(String),
    /// RLE that does not describe a mask of its size.
    #[error("malformed RLE: {0}")]
    Rle(String),
    /// A mask has another size than its image.
    #[error("the mask is {}x{} but the image is {}x{} (height x width){turned}", found.0, found.1, expected.0, expected.1)]
    Size {
        /// Height and width of the mask.
        found: (usize, usize),
        /// Height and width of the image.
        expected: (usize, usize),
        /// Whether the EXIF orientation of the image explains the difference.
        turned: Turned,
    },
    /// Decoding it would take more memory than the limit for one file.
    #[error("{0}")]
    Memory(String),
    /// The segmentation's text is not JSON that can be read.
    #[error("malformed JSON: {0}")]
    Json(String),
    /// The segmentation is neither polygons nor RLE.
    #[error("a segmentation must be a list of polygons or an RLE object, found {0}")]
    Kind(String),
}

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Replaces a reader's error if the file is something else, such as a git-lfs pointer or a web page.
pub(crate) fn or_mistaken(path: &std::path::Path, error: Error) -> Error {
    let is_archive = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("zip"));
    let what = if is_archive { file_kind::mistaken_file(path) } else { file_kind::mistaken_text_file(path) };
    match what {
        Some(what) => Error::Mistaken { path: path.to_path_buf(), what },
        None => error,
    }
}

pub(crate) fn io_error(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::Io { path, source }
}

/// A JSON error in the words of JSON, not of the parser.
pub fn json_problem(error: &serde_json::Error) -> String {
    let words = [
        ("EOF while parsing an object", "the text ends inside an object: half a file"),
        ("EOF while parsing a list", "the text ends inside a list: half a file"),
        ("EOF while parsing a string", "the text ends inside a string: half a file"),
        ("EOF while parsing a value", "the text ends too early: half a file"),
        ("trailing characters", "something follows the object on its line"),
        ("invalid unicode code point", "this is not UTF-8: save the file as UTF-8;"),
        ("invalid type: map", "found an object"),
        ("invalid type: sequence", "found a list"),
        ("invalid type: ", "found "),
        ("expected a sequence", "expected a list"),
        ("expected a map", "expected an object"),
        ("expected i64", "expected a whole number"),
        ("expected u64", "expected a whole number from 0 on"),
        ("expected f64", "expected a number"),
        ("expected a boolean", "expected true or false"),
    ];
    words.iter().fold(error.to_string(), |text, (theirs, ours)| text.replace(theirs, ours))
}
