use std::fs::{File, TryLockError};
use std::path::Path;

use anyhow::{Context, Result};
use cli_kit::errln;

/// An exclusive lock on a file, released when dropped or when its process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits until no other process holds the lock.
    pub(crate) fn wait(path: &Path) -> Result<Self> {
        let shown = || path.display().to_string();
        let file = File::options().write(true).create(true).truncate(false).open(path).with_context(shown)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                errln!("setup: another set-up is running; waiting for it");
                file.lock().with_context(shown)?;
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(shown),
        }
        Ok(Self { _file: file })
    }
}
