use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use cli_kit::errln;

/// An exclusive lock on a file, released when dropped or when its process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits until no other process holds the lock.
    pub(crate) fn wait(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| path.display().to_string())?;
        if !try_lock(&file, libc::LOCK_EX | libc::LOCK_NB) {
            errln!("setup: another set-up is running; waiting for it");
            let locked = try_lock(&file, libc::LOCK_EX);
            ensure!(locked, "{}: {}", path.display(), std::io::Error::last_os_error());
        }
        Ok(Self { _file: file })
    }
}

fn try_lock(file: &File, operation: libc::c_int) -> bool {
    // SAFETY: the descriptor is open for as long as `file` lives.
    unsafe { libc::flock(file.as_raw_fd(), operation) == 0 }
}
