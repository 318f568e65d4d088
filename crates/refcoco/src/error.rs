use std::path::PathBuf;

/// What can be wrong with a data set, naming the file and record at fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A refs file is no readable pickle.
    #[error("{}: {source}", path.display())]
    Pickle {
        /// The file.
        path: PathBuf,
        /// The reader's reason.
        source: safe_pickle::Error,
    },
    /// A JSON file is malformed; the message holds line and column.
    #[error("{}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's reason.
        source: serde_json::Error,
    },
    /// A record lacks a field or holds one of another type.
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
        /// The decoder's reason.
        what: String,
    },
    /// An image's size differs from its record, so its masks would not fit.
    #[error("{}: the image is {}x{} but its record says {}x{}", path.display(), found.0, found.1, expected.0, expected.1)]
    ImageSize {
        /// The file.
        path: PathBuf,
        /// Width and height of the decoded image.
        found: (usize, usize),
        /// Width and height of the annotation record.
        expected: (usize, usize),
    },
    /// A segmentation cannot be turned into a mask.
    #[error("{}: annotation {ann_id}: {source}", path.display())]
    Segmentation {
        /// The file that holds it.
        path: PathBuf,
        /// The annotation.
        ann_id: i64,
        /// What is wrong with it.
        source: MaskError,
    },
    /// An environment variable holds something else than it should.
    #[error("environment: {what}")]
    Environment {
        /// Which, and what is expected.
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
        /// The names there are.
        known: String,
    },
    /// A data set has no such split, or nothing in it.
    #[error("data set `{dataset}` has no split `{split}`; it has {known}")]
    UnknownSplit {
        /// The data set.
        dataset: String,
        /// The split asked for.
        split: String,
        /// The splits there are.
        known: String,
    },
    /// The files of a data set are not where they should be.
    #[error("data set `{dataset}`: no {what} below {}; {advice}", root.display())]
    Layout {
        /// The data set.
        dataset: String,
        /// The missing thing.
        what: String,
        /// Where it was looked for.
        root: PathBuf,
        /// What to do.
        advice: String,
    },
    /// A data set descriptor is malformed.
    #[error("data set descriptor {name}: {what}")]
    Descriptor {
        /// The descriptor.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// RefShapes was asked for with impossible settings.
    #[error("refshapes: {0}")]
    RefShapes(String),
    /// A loader thread ended without delivering its batch.
    #[error("a data loader thread failed: {0}")]
    Loader(String),
}

/// Why a segmentation is no mask.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MaskError {
    /// A polygon with fewer than three points, an odd number of coordinates or coordinates that are no numbers.
    #[error("malformed polygon: {0}")]
    Polygon(String),
    /// Run lengths that do not describe a mask of their size.
    #[error("malformed RLE: {0}")]
    Rle(String),
    /// A mask of another size than its image.
    #[error("the mask is {}x{} but the image is {}x{} (height x width)", found.0, found.1, expected.0, expected.1)]
    Size {
        /// Height and width of the mask.
        found: (usize, usize),
        /// Height and width of the image.
        expected: (usize, usize),
    },
    /// Decoding it would take more memory than one file may cost.
    #[error("{0}")]
    Memory(String),
    /// Neither polygons nor RLE.
    #[error("a segmentation must be a list of polygons or an RLE object, found {0}")]
    Kind(String),
}

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

pub(crate) fn io_error(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::Io { path, source }
}
