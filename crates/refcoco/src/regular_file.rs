//! Opens regular files only. Opening a pipe can block, and reading a device may never end.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::{Result, io_error};

/// Opens a regular file for reading.
///
/// # Errors
/// When the file cannot be opened, or is a pipe, a device or a folder. The error names the file.
pub fn open_regular(path: &Path) -> Result<File> {
    // Checked before opening, because opening a pipe blocks until its other end is opened.
    let found = std::fs::metadata(path).map_err(io_error(path))?;
    match found.is_file() {
        true => File::open(path).map_err(io_error(path)),
        false => Err(io_error(path)(std::io::Error::other("this is not a regular file"))),
    }
}

/// Reads all bytes of a regular file.
pub(crate) fn read_regular(path: &Path) -> Result<Vec<u8>> {
    let mut file = open_regular(path)?;
    let mut bytes = Vec::with_capacity(file.metadata().map_or(0, |found| found.len() as usize + 1));
    file.read_to_end(&mut bytes).map_err(io_error(path))?;
    Ok(bytes)
}
