use std::path::{Path, PathBuf};

/// Why a file of a run cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system cannot open or read a file.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A JSON document is malformed.
    #[error("{}: {source}", path.display())]
    Document {
        /// The file.
        path: PathBuf,
        /// Where and why it is malformed.
        source: serde_json::Error,
    },
    /// A line is malformed.
    #[error("{}: line {number}: {what}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        number: usize,
        /// What is wrong with the line.
        what: String,
    },
    /// The file has no line for an expression.
    #[error("{}: no line has ref_id {ref_id}, sent_id {sent_id}", path.display())]
    Unanswered {
        /// The file.
        path: PathBuf,
        /// `ref_id` of the expression.
        ref_id: i64,
        /// `sent_id` of the expression.
        sent_id: i64,
    },
    /// A file of lines or a data set cannot be read.
    #[error(transparent)]
    Data(#[from] refcoco::Error),
    /// A file cannot be written.
    #[error(transparent)]
    Write(#[from] whole_file::Error),
}

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Reads a regular file. Other files are refused: reading a pipe would block.
pub(crate) fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut file = refcoco::open_regular(path)?;
    std::io::Read::read_to_end(&mut file, &mut bytes)
        .map_err(|source| Error::Io { path: path.to_path_buf(), source })?;
    Ok(bytes)
}

pub(crate) fn read_document<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    serde_json::from_slice(&read_bytes(path)?)
        .map_err(|source| Error::Document { path: path.to_path_buf(), source })
}

pub(crate) fn write_document(path: &Path, document: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(document)
        .map_err(|source| Error::Document { path: path.to_path_buf(), source })?;
    Ok(whole_file::write(path, format!("{text}\n").as_bytes())?)
}
