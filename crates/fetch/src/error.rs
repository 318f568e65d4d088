//! What can go wrong, and what to do about it.

use std::path::{Path, PathBuf};

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A table of sources, or a lock file, is wrong.
    #[error("{}: {what}", path.display())]
    Table {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A variable of the environment is wrong.
    #[error("{name} {what}")]
    Variable {
        /// Its name.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// Nothing is asked for.
    #[error("name what to fetch; `fetch list` says what there is")]
    Nothing,
    /// There is nothing of this name to fetch.
    #[error("nothing to fetch is called `{name}`: {hint}")]
    NoSuchItem {
        /// The name.
        name: String,
        /// The nearest name, and all of them.
        hint: String,
    },
    /// There is no such config.
    #[error("no shipped config and no file is called `{name}`: {hint}")]
    NoSuchConfig {
        /// The name.
        name: String,
        /// The nearest name, and all of them.
        hint: String,
    },
    /// No source of a file worked.
    #[error("{}: no source worked.{}\n{} A file from elsewhere is taken with `--from FOLDER`, under the name {name}", path.display(), lines(reasons), said_of(*kept))]
    NoSourceWorked {
        /// Where the file would be.
        path: PathBuf,
        /// The file's name for `--from`.
        name: String,
        /// Address and reason of each source.
        reasons: Vec<String>,
        /// Bytes that are kept for the next call.
        kept: u64,
    },
    /// Some files could not be fetched; each reason has been printed.
    #[error("{} of {wanted} files could not be fetched: {}", names.len(), names.join(", "))]
    Several {
        /// Places of those that could not.
        names: Vec<String>,
        /// Number of files that were wanted.
        wanted: usize,
    },
    /// A file of `--from` is not the one that is wanted.
    #[error("{}: {what}", path.display())]
    NotThisFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        what: String,
    },
    /// The disk is too full.
    #[error(
        "{}: the disk has {} free, and {} are needed; make room, or choose another disk with --data-root or --weights", path.display(), megabytes(*free), megabytes(*needed)
    )]
    DiskFull {
        /// The folder.
        path: PathBuf,
        /// Free bytes.
        free: u64,
        /// Bytes that are needed.
        needed: u64,
    },
    /// Another process fetches the same file.
    #[error("{}: another process is fetching this file", path.display())]
    Busy {
        /// The unfinished file.
        path: PathBuf,
    },
    /// The licence must be accepted, or the token is missing or wrong.
    #[error(
        "{item}: {what}. Accept the licence at {page} with your Hugging Face account, make a token at https://huggingface.co/settings/tokens, and set HF_TOKEN to it"
    )]
    Gated {
        /// The item.
        item: String,
        /// What the server said, or that there is no token.
        what: String,
        /// Page of the licence.
        page: String,
    },
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Adds the path to a system error.
    pub(crate) fn at(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }
}

impl From<whole_file::Error> for Error {
    fn from(error: whole_file::Error) -> Self {
        Self::Io { path: error.path, source: error.source }
    }
}

fn said_of(kept: u64) -> String {
    match kept {
        0 => "Nothing was downloaded.".to_owned(),
        kept => format!("{} are kept; the same command goes on with them.", megabytes(kept)),
    }
}

fn lines(reasons: &[String]) -> String {
    reasons.iter().map(|reason| format!("\n  {reason}")).collect()
}

/// A size for people: `13.5 GB`, `346 MB`.
pub(crate) fn megabytes(bytes: u64) -> String {
    match bytes as f64 {
        bytes if bytes >= 1e9 => format!("{:.1} GB", bytes / 1e9),
        bytes if bytes >= 1e6 => format!("{:.0} MB", bytes / 1e6),
        bytes => format!("{:.0} kB", (bytes / 1e3).ceil()),
    }
}
