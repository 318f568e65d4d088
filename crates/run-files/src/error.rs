use std::path::{Path, PathBuf};

/// Why a file of a run cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refuses.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Its reason.
        source: std::io::Error,
    },
    /// A document is not what it should be.
    #[error("{}: {source}", path.display())]
    Document {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A line is not what it should be.
    #[error("{}: line {number}: {what}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        number: usize,
        /// What is wrong with it.
        what: String,
    },
    /// An expression has no line.
    #[error("{}: no line has ref_id {ref_id}, sent_id {sent_id}", path.display())]
    Unanswered {
        /// The file.
        path: PathBuf,
        /// The expression's ref.
        ref_id: i64,
        /// The expression.
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

/// The bytes of a regular file: a pipe would be waited for.
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
