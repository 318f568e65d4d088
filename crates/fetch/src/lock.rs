//! The lock file: what was downloaded, with its checksums, so that the same bytes come the next time.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Name of the lock file in the data root.
pub const LOCK_FILE: &str = "fetch-lock.toml";

const HEADER: &str = "# Written by `fetch`: checksums of what was downloaded. Keep it: later downloads must have the same.\n\
                      # `published = false`: the source names no checksum, so the first download was taken as it came.\n\n";

/// One file that was downloaded, or unpacked from a download.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// SHA-256 in hexadecimal digits.
    pub sha256: String,
    /// Size in bytes.
    pub size: u64,
    /// Whether the source publishes the checksum.
    pub published: bool,
    /// Where it came from.
    pub url: String,
}

/// The lock file of a data root.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    entries: BTreeMap<String, Entry>,
}

impl Lock {
    /// Reads the lock file of a data root; without one, the lock is empty.
    ///
    /// # Errors
    /// When it cannot be read or is no lock file.
    pub fn read(data_root: &Path) -> Result<Self> {
        let path = data_root.join(LOCK_FILE);
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            text => text.map_err(Error::at(&path))?,
        };
        let entries = toml::from_str(&text)
            .map_err(|error| Error::Table { path: path.clone(), what: error.to_string() })?;
        Ok(Self { path, entries })
    }

    /// The entry of a place of the table.
    pub fn entry(&self, to: &str) -> Option<&Entry> {
        self.entries.get(to)
    }

    /// Makes sure that the file can be written.
    ///
    /// # Errors
    /// When its folder cannot be made or written to.
    pub(crate) fn require_writable(&self) -> Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(Error::at(folder))?;
        rustix::fs::access(folder, rustix::fs::Access::WRITE_OK)
            .map_err(|error| Error::at(folder)(error.into()))
    }

    /// Adds entries and writes the file. What other processes have added meanwhile is kept.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn add(&mut self, new: impl IntoIterator<Item = (String, Entry)>) -> Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(Error::at(folder))?;
        // Held until the end of the function.
        let held = File::open(folder).map_err(Error::at(folder))?;
        held.lock().map_err(Error::at(folder))?;
        self.entries = Self::read(folder)?.entries;
        self.entries.extend(new);
        let text = toml::to_string(&self.entries)
            .map_err(|error| Error::Table { path: self.path.clone(), what: error.to_string() })?;
        whole_file::write(&self.path, format!("{HEADER}{text}").as_bytes())?;
        Ok(())
    }
}
