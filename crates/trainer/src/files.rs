//! Files that are whole or not there.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Result, anyhow};

/// What names of files in the making contain; such a file left behind belongs to a process that was killed.
const UNFINISHED: &str = ".tmp-";

/// Writes a file so that its name never stands for half of it.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!("{UNFINISHED}{}", std::process::id()));
    let temporary = path.with_file_name(name);
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        // The rename itself is durable only once the folder is.
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    };
    write().map_err(|error| {
        let _ = std::fs::remove_file(&temporary);
        anyhow!("{}: {error}", path.display())
    })
}

/// Removes what killed processes left in a folder that nobody else writes to.
pub(crate) fn remove_unfinished(folder: &Path) -> Result<()> {
    let entries = std::fs::read_dir(folder).map_err(|error| anyhow!("{}: {error}", folder.display()))?;
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().contains(UNFINISHED) {
            std::fs::remove_file(entry.path())
                .map_err(|error| anyhow!("{}: {error}", entry.path().display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_leftovers_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        write_atomically(&folder.path().join("kept.json"), b"{}").unwrap();
        std::fs::write(folder.path().join("kept.json.tmp-77"), b"{").unwrap();
        remove_unfinished(folder.path()).unwrap();
        let names: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["kept.json"]);
    }
}
