//! Free space.

use std::path::Path;

use crate::error::{Error, Result};

/// Room that is left for everything else.
const RESERVE: u64 = 50_000_000;

/// Free bytes on the disk of a folder, or of the nearest folder above it that exists.
pub(crate) fn free_space(folder: &Path) -> Option<u64> {
    let folder = folder.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("."));
    rustix::fs::statvfs(folder).ok().map(|found| found.f_bavail.saturating_mul(found.f_frsize))
}

/// Requires free space on the disk of a path, whose folder must exist.
pub(crate) fn require_space(path: &Path, bytes: u64) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let found = rustix::fs::statvfs(folder).map_err(|error| Error::at(folder)(error.into()))?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    let needed = bytes.saturating_add(RESERVE);
    if free < needed {
        return Err(Error::DiskFull { path: folder.to_path_buf(), free, needed });
    }
    Ok(())
}
