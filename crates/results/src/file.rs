use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::{Error, io_error};

/// Writes a file under a temporary name first, so that its name never stands for half of it.
///
/// # Errors
/// When the file cannot be written, and what `fill` fails with.
pub fn replace_file(path: &Path, fill: impl FnOnce(&mut File) -> Result<(), Error>) -> Result<(), Error> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // As any new file's, before the process's own mask.
    let permissions = Permissions::from_mode(0o666);
    let mut file =
        tempfile::Builder::new().permissions(permissions).tempfile_in(folder).map_err(io_error(path))?;
    fill(file.as_file_mut())?;
    file.as_file().sync_all().map_err(io_error(path))?;
    file.persist(path).map_err(|error| io_error(path)(error.error))?;
    Ok(())
}
