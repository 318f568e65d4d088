//! Unpacks the wanted files of a zip archive: all of them or none, and never outside of the folder.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use zip::ZipArchive;
use zip::read::ZipFile;

use crate::check::sha256;
use crate::disk::require_space;
use crate::error::{Error, Result};
use crate::part::sync_folder;
use crate::table::Source;

/// The largest factor by which an archive may grow; text compresses to about a tenth.
const MOST_GROWTH: u64 = 100;

/// A zip archive and its wanted files.
pub(crate) struct Archive {
    zip: ZipArchive<File>,
    entries: Vec<Entry>,
}

/// A wanted file.
#[derive(Clone)]
struct Entry {
    name: String,
    index: usize,
    size: u64,
}

/// Why a file could not be copied out of an archive.
enum CopyError {
    /// The archive is damaged.
    Archive(String),
    /// The target cannot be written.
    Target(std::io::Error),
}

impl Archive {
    /// Opens an archive and finds the wanted files.
    ///
    /// The error says what is wrong with the archive.
    pub(crate) fn open(path: &Path, source: &Source) -> std::result::Result<Self, String> {
        let damaged = |error: &dyn std::fmt::Display| format!("the archive is damaged: {error}");
        let file = File::open(path).map_err(|error| damaged(&error))?;
        let size = file.metadata().map_err(|error| damaged(&error))?.len();
        let mut zip = ZipArchive::new(file).map_err(|error| damaged(&error))?;
        let entries = find(&mut zip, source)?;
        let archive = Self { zip, entries };
        if archive.total() > size.saturating_mul(MOST_GROWTH) {
            let total = archive.total();
            return Err(format!("the archive would grow to {total} bytes, which no sound one does"));
        }
        Ok(archive)
    }

    /// Bytes of the wanted files.
    fn total(&self) -> u64 {
        self.entries.iter().fold(0, |sum, entry| sum.saturating_add(entry.size))
    }

    /// Reads all wanted files to their ends, where their checksums are compared. The error says what is damaged.
    pub(crate) fn test(&mut self) -> std::result::Result<(), String> {
        for entry in self.entries.clone() {
            match self.copy(&entry, &mut std::io::sink()) {
                Err(CopyError::Archive(what)) => return Err(what),
                Err(CopyError::Target(error)) => return Err(error.to_string()),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Unpacks the wanted files into a folder. A file that is there already must be the same, unless it is empty.
    ///
    /// - record: called with name, SHA-256 and size of each file before any gets its name
    /// - staging: folder beside the targets for what is not complete; removed at the end, and if an earlier process has left it
    ///
    /// # Errors
    /// When a file cannot be written, another one has its name, or the archive is damaged.
    pub(crate) fn unpack(
        &mut self,
        folder: &Path,
        staging: &Path,
        record: impl FnOnce(Vec<(String, String, u64)>) -> Result<()>,
    ) -> Result<()> {
        remove(staging)?;
        std::fs::create_dir_all(staging).map_err(Error::at(staging))?;
        let done = self.stage(staging).and_then(|()| self.place(folder, staging, record));
        remove(staging)?;
        done
    }

    fn stage(&mut self, staging: &Path) -> Result<()> {
        require_space(&staging.join("file"), self.total())?;
        for entry in self.entries.clone() {
            let path = staging.join(&entry.name);
            create_parent(&path)?;
            let mut out = File::create_new(&path).map_err(Error::at(&path))?;
            self.copy(&entry, &mut out).map_err(|error| match error {
                CopyError::Archive(what) => Error::NotThisFile { path: path.clone(), what },
                CopyError::Target(error) => Error::at(&path)(error),
            })?;
            out.sync_all().map_err(Error::at(&path))?;
        }
        Ok(())
    }

    /// Gives the staged files their names, after it is clear that all of them can have theirs.
    fn place(
        &self,
        folder: &Path,
        staging: &Path,
        record: impl FnOnce(Vec<(String, String, u64)>) -> Result<()>,
    ) -> Result<()> {
        let (mut to_move, mut staged_files) = (Vec::new(), Vec::new());
        for entry in &self.entries {
            let (staged, target) = (staging.join(&entry.name), folder.join(&entry.name));
            create_parent(&target)?;
            let hash = sha256(&staged)?;
            staged_files.push((entry.name.clone(), hash.clone(), entry.size));
            match std::fs::metadata(&target) {
                Ok(found) if found.is_dir() => {
                    return Err(Error::at(&target)(std::io::Error::other(
                        "a folder has the name of the file",
                    )));
                }
                Ok(found) if found.len() > 0 => {
                    if hash != sha256(&target)? {
                        let what =
                            "this file is there already and differs from that of the archive; move it away";
                        return Err(Error::NotThisFile { path: target, what: what.into() });
                    }
                }
                _ => to_move.push((staged, target)),
            }
        }
        record(staged_files)?;
        for (staged, target) in to_move {
            rename(&staged, &target)?;
            sync_folder(&target)?;
        }
        Ok(())
    }

    fn copy(&mut self, entry: &Entry, out: &mut dyn Write) -> std::result::Result<(), CopyError> {
        let damaged = |error: &dyn std::fmt::Display| {
            CopyError::Archive(format!("`{}` in the archive is damaged: {error}", entry.name))
        };
        let file = self.zip.by_index(entry.index).map_err(|error| damaged(&error))?;
        // More than the archive's list says is a lie.
        let mut limited = file.take(entry.size.saturating_add(1));
        let (mut buffer, mut written) = (vec![0; 1 << 17], 0);
        loop {
            let n = limited.read(&mut buffer).map_err(|error| damaged(&error))?;
            if n == 0 {
                break;
            }
            out.write_all(&buffer[..n]).map_err(CopyError::Target)?;
            written += n as u64;
        }
        let size = entry.size;
        if written == size { Ok(()) } else { Err(damaged(&format!("{written} bytes in place of {size}"))) }
    }
}

fn remove(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::at(folder)(error)),
        _ => Ok(()),
    }
}

/// Renames a file, also into a folder that is a link to another disk.
fn rename(from: &Path, to: &Path) -> Result<()> {
    match std::fs::rename(from, to) {
        Err(error) if error.kind() == std::io::ErrorKind::CrossesDevices => {
            let mut file = File::open(from).map_err(Error::at(from))?;
            whole_file::write_with(to, |out| std::io::copy(&mut file, out).map(|_| ()).map_err(Error::at(to)))
        }
        done => done.map_err(Error::at(to)),
    }
}

fn create_parent(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(Error::at(folder))
}

/// Finds the wanted files; the error says what is wrong.
fn find(zip: &mut ZipArchive<File>, source: &Source) -> std::result::Result<Vec<Entry>, String> {
    let names = &source.unpack;
    let mut found: Vec<Option<Entry>> = names.iter().map(|_| None).collect();
    for index in 0..zip.len() {
        let file = zip.by_index_raw(index).map_err(|error| format!("the archive is damaged: {error}"))?;
        let path = inside(&file)?;
        let Some(place) = names.iter().position(|name| Path::new(name) == path) else { continue };
        let name = &names[place];
        if found[place].is_some() {
            return Err(format!("the archive holds two files `{name}`"));
        }
        if !file.is_file() || file.is_symlink() {
            return Err(format!("`{name}` in the archive is not a file"));
        }
        if file.size() == 0 {
            return Err(format!("`{name}` in the archive is empty"));
        }
        found[place] = Some(Entry { name: name.clone(), index, size: file.size() });
    }
    let missing = names.iter().zip(&found);
    let missing = missing.filter(|(name, found)| found.is_none() && !source.optional.contains(name));
    let missing: Vec<_> = missing.map(|(name, _)| format!("`{name}`")).collect();
    if !missing.is_empty() {
        return Err(format!("the archive lacks {}", missing.join(", ")));
    }
    Ok(found.into_iter().flatten().collect())
}

/// The path of an archive's file, which must stay inside.
fn inside<R: Read + ?Sized>(file: &ZipFile<'_, R>) -> std::result::Result<PathBuf, String> {
    let name = file.name_raw();
    let is_absolute = name.starts_with(b"/") || name.starts_with(b"\\");
    file.enclosed_name().filter(|_| !is_absolute).ok_or_else(|| {
        let name = String::from_utf8_lossy(name).escape_debug().to_string();
        format!("the archive holds `{name}`, which would leave the folder")
    })
}
