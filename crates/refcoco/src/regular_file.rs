//! Files that have an end: a pipe would be waited for, and a device read for ever.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::{Result, io_error};

/// Opens a file to read, if it is a regular one.
///
/// # Errors
/// Names the file, when it cannot be opened or is a pipe, a device or a folder.
pub fn open_regular(path: &Path) -> Result<File> {
    // Opening a pipe already waits for its other end.
    let found = std::fs::metadata(path).map_err(io_error(path))?;
    match found.is_file() {
        true => File::open(path).map_err(io_error(path)),
        false => Err(io_error(path)(std::io::Error::other("this is not a regular file"))),
    }
}

/// All bytes of a regular file.
pub(crate) fn read_regular(path: &Path) -> Result<Vec<u8>> {
    let mut file = open_regular(path)?;
    let mut bytes = Vec::with_capacity(file.metadata().map_or(0, |found| found.len() as usize + 1));
    file.read_to_end(&mut bytes).map_err(io_error(path))?;
    Ok(bytes)
}
