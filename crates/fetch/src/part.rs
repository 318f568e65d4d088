//! A file while it is downloaded: `NAME.part`, and beside it `NAME.part.toml`, which says what it is a part of.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What is on the disk is noted this often; a process that is killed loses no more.
const NOTE_EVERY: Duration = Duration::from_millis(500);

/// What a part is a part of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Origin {
    /// Address in the table of sources.
    pub(crate) url: String,
    /// ETag or date of the file.
    pub(crate) validator: Option<String>,
    /// Size of the whole file, if the server said so.
    pub(crate) total: Option<u64>,
    /// Bytes that were on the disk when this was written.
    pub(crate) bytes: u64,
}

/// A file that grows. It is locked: no other process writes to it.
#[derive(Debug)]
pub(crate) struct Part {
    path: PathBuf,
    note: PathBuf,
    file: File,
    origin: Origin,
    length: u64,
    is_complete: bool,
    noted: Instant,
    /// The folder, if it was made for this file.
    made: Option<PathBuf>,
}

/// Path of the unfinished file of a path.
pub(crate) fn part_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}

/// Opens a file and locks it. A link is not followed. If another process has given the file its name meanwhile, a new one is opened.
fn locked(path: &Path) -> Result<File> {
    loop {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32);
        let file = options.open(path).map_err(Error::at(path))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => return Err(Error::Busy { path: path.to_path_buf() }),
            Err(TryLockError::Error(error)) => return Err(Error::at(path)(error)),
            Ok(()) => {}
        }
        let ours = file.metadata().map_err(Error::at(path))?;
        if std::fs::symlink_metadata(path)
            .is_ok_and(|found| found.ino() == ours.ino() && found.dev() == ours.dev())
        {
            return Ok(file);
        }
    }
}

impl Part {
    /// Opens the part of a file, with what an earlier process has left.
    pub(crate) fn open(whole: &Path) -> Result<Self> {
        let path = part_of(whole);
        let mut note = path.as_os_str().to_owned();
        note.push(".toml");
        let note = PathBuf::from(note);
        let folder = path.parent().unwrap_or(Path::new("."));
        let made = (!folder.exists()).then(|| folder.to_path_buf());
        std::fs::create_dir_all(folder).map_err(Error::at(folder))?;
        if whole.is_dir() {
            return Err(Error::at(whole)(std::io::Error::other("a folder has the name of the file")));
        }
        let file = locked(&path)?;
        let origin: Option<Origin> =
            std::fs::read_to_string(&note).ok().and_then(|text| toml::from_str(&text).ok());
        let found = file.metadata().map_err(Error::at(&path))?;
        if !found.is_file() || found.nlink() > 1 || note.is_symlink() || origin.is_none() && found.len() > 0 {
            return Err(Error::NotThisFile {
                path,
                what: "this is not an unfinished download of this program; move it away".into(),
            });
        }
        let mut origin = origin.unwrap_or_default();
        // It becomes a header again.
        origin.validator.take_if(|text| !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        // Bytes behind those that were noted may not have reached the disk before a power failure.
        let length = file.metadata().map_err(Error::at(&path))?.len().min(origin.bytes);
        let mut part =
            Self { path, note, file, origin, length, is_complete: false, noted: Instant::now(), made };
        part.cut(length)?;
        Ok(part)
    }

    /// Path that the complete file will have.
    pub(crate) fn whole(&self) -> PathBuf {
        self.path.with_extension("")
    }

    /// Whether all of the file has arrived.
    pub(crate) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// All of the file has arrived.
    pub(crate) fn complete(&mut self) {
        self.is_complete = true;
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Begins anew, or goes on after `length` bytes.
    pub(crate) fn begin(&mut self, length: u64, origin: Origin) -> Result<()> {
        self.cut(length)?;
        self.origin = origin;
        self.take_note()
    }

    fn cut(&mut self, length: u64) -> Result<()> {
        use std::io::Seek;
        self.file.set_len(length).map_err(Error::at(&self.path))?;
        self.file.seek(std::io::SeekFrom::Start(length)).map_err(Error::at(&self.path))?;
        (self.length, self.is_complete) = (length, false);
        Ok(())
    }

    /// Adds bytes at the end.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::at(&self.path))?;
        self.length += bytes.len() as u64;
        if self.noted.elapsed() >= NOTE_EVERY { self.take_note() } else { Ok(()) }
    }

    /// Brings everything to the disk and notes how much that is.
    pub(crate) fn take_note(&mut self) -> Result<()> {
        self.file.sync_data().map_err(Error::at(&self.path))?;
        self.origin.bytes = self.length;
        let text = toml::to_string(&self.origin)
            .map_err(|error| Error::Table { path: self.note.clone(), what: error.to_string() })?;
        whole_file::write(&self.note, text.as_bytes())?;
        self.noted = Instant::now();
        Ok(())
    }

    /// Forgets what was downloaded.
    pub(crate) fn discard(&mut self) -> Result<()> {
        self.begin(0, Origin::default())
    }

    /// The complete file gets its name.
    pub(crate) fn finish(self, whole: &Path) -> Result<()> {
        self.file.sync_all().map_err(Error::at(&self.path))?;
        std::fs::rename(&self.path, whole).map_err(Error::at(whole))?;
        sync_folder(whole)?;
        self.remove_note()
    }

    /// Removes what an earlier process has left of a file that is complete by now.
    pub(crate) fn tidy(whole: &Path) {
        if part_of(whole).is_file() {
            // A part of somebody else, or of a process that runs, stays.
            let _ = Self::open(whole).and_then(Self::remove);
        }
    }

    /// Leaves what was downloaded for a later call; without any, no file and no folder remains.
    pub(crate) fn leave(self) -> Result<()> {
        if self.length > 0 {
            return Ok(());
        }
        let made = self.made.clone();
        self.remove()?;
        if let Some(folder) = made {
            // Another file may be in it by now.
            let _ = std::fs::remove_dir(folder);
        }
        Ok(())
    }

    /// Removes the file, of which nothing is needed any more.
    pub(crate) fn remove(self) -> Result<()> {
        std::fs::remove_file(&self.path).map_err(Error::at(&self.path))?;
        self.remove_note()
    }

    fn remove_note(self) -> Result<()> {
        match std::fs::remove_file(&self.note) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::at(&self.note)(error)),
            _ => Ok(()),
        }
    }
}

/// Makes renames in a file's folder durable.
pub(crate) fn sync_folder(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::at(folder))
}
