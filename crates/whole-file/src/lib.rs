//! Atomic file writes: a file is written completely or not at all.
//!
//! The contents are written to a temporary file in the same folder, synced, and renamed; then the folder is synced. A process
//! that reads the path meanwhile sees the old file or the new one. A process that is killed may leave the temporary file
//! behind; [`remove_unfinished`] recognises such files by their names.

use std::fs::{File, Permissions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A file that could not be written, and why.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct Error {
    /// The file.
    pub path: PathBuf,
    /// The system's reason.
    pub source: std::io::Error,
}

impl Error {
    fn at(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self { path, source }
    }
}

/// A temporary file is called `.NAME.unfinished-talent-RANDOM`, with `N_RANDOM` letters and digits for RANDOM.
const MARK: &str = ".unfinished-talent-";
const N_RANDOM: usize = 8;

/// Writes a file atomically.
///
/// # Errors
/// When it cannot be written, or the path is not that of a regular file, but of a folder or a device, for example. The old file
/// is then unchanged.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    write_with(path, |file| file.write_all(bytes).map_err(Error::at(path)))
}

/// Writes a file atomically with a function, whose error is returned unchanged.
///
/// # Errors
/// As [`write()`].
pub fn write_with<E: From<Error>>(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<&File>) -> Result<(), E>,
) -> Result<(), E> {
    let fail = |source| Error { path: path.to_path_buf(), source };
    let place = target_of(path)?;
    let folder = place.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(place.file_name().unwrap_or_default());
    prefix.push(MARK);
    // The permissions of other new files, to which the user's umask applies.
    let unfinished = tempfile::Builder::new()
        .prefix(&prefix)
        .rand_bytes(N_RANDOM)
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)
        .map_err(|error| fail(without_temporary_name(error)))?;
    let mut buffer = BufWriter::new(unfinished.as_file());
    fill(&mut buffer)?;
    buffer.flush().map_err(fail)?;
    drop(buffer);
    unfinished.as_file().sync_all().map_err(fail)?;
    unfinished.persist(&place).map_err(|error| fail(error.error))?;
    // The rename is durable only after the folder is synced.
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(fail)?;
    Ok(())
}

/// The path of the file itself: a symlink stays, and the file that it points to is replaced.
fn target_of(path: &Path) -> Result<PathBuf, Error> {
    let fail = |source| Error { path: path.to_path_buf(), source };
    let not_a_file = |what: &str| std::io::Error::other(format!("this is {what}, not a file"));
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(fail(not_a_file("a folder"))),
        Ok(found) if !found.is_file() => Err(fail(not_a_file("a device or a pipe"))),
        Ok(_) if path.is_symlink() => path.canonicalize().map_err(fail),
        _ if path.file_name().is_none() => Err(fail(not_a_file("a folder"))),
        _ => Ok(path.to_path_buf()),
    }
}

/// The error without the name of the temporary file, which `tempfile` adds and which means nothing to a user.
fn without_temporary_name(error: std::io::Error) -> std::io::Error {
    let text = error.to_string();
    let text = text.split(" at path \"").next().unwrap_or_default().to_owned();
    std::io::Error::new(error.kind(), text)
}

/// Whether a name is that of a temporary file of this crate.
fn is_unfinished(name: &str) -> bool {
    name.starts_with('.')
        && name.rsplit_once(MARK).is_some_and(|(before, random)| {
            before.len() > 1
                && random.len() == N_RANDOM
                && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
        })
}

/// Removes temporary files that killed processes left in a folder. No other process may be writing to the folder.
///
/// # Errors
/// When the folder cannot be read, or a temporary file cannot be removed.
pub fn remove_unfinished(folder: &Path) -> Result<(), Error> {
    for entry in std::fs::read_dir(folder).map_err(Error::at(folder))?.flatten() {
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if is_file && is_unfinished(&entry.file_name().to_string_lossy()) {
            let path = entry.path();
            std::fs::remove_file(&path).map_err(Error::at(&path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn only_leftovers_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        write(&place("kept.json"), b"{}").unwrap();
        let kept = [
            "kept.json.tmp-77",
            "notes.tmp-draft.txt",
            ".kept.json.unfinished-talent-short",
            "x.unfinished-talent-abcd1234",
        ];
        for name in kept {
            std::fs::write(place(name), b"{").unwrap();
        }
        std::fs::create_dir(place(".folder.unfinished-talent-abcd1234")).unwrap();
        std::fs::write(place(".kept.json.unfinished-talent-abcd1234"), b"{").unwrap();
        remove_unfinished(folder.path()).unwrap();
        let mut expected = [kept.as_slice(), &["kept.json", ".folder.unfinished-talent-abcd1234"]].concat();
        expected.sort_unstable();
        assert_eq!(names(folder.path()), expected);
    }

    #[test]
    fn what_is_being_written_would_be_recognised() {
        let folder = tempfile::tempdir().unwrap();
        write_with(&folder.path().join("a"), |_| {
            assert!(names(folder.path()).iter().all(|name| is_unfinished(name)));
            Ok::<_, Error>(())
        })
        .unwrap();
        assert_eq!(names(folder.path()), ["a"]);
    }

    #[test]
    fn a_failure_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write(&path, b"before").unwrap();
        let failed = write_with(&path, |file| {
            file.write_all(b"half").map_err(Error::at(&path))?;
            Err(Error::at(&path)(std::io::Error::other("no more")))
        });
        assert!(failed.is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"before");
        assert_eq!(names(folder.path()), ["a"]);
    }

    #[test]
    fn links_stay_and_only_files_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        write(&file, b"before").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        write(&link, b"after").unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read(&file).unwrap(), b"after");
        for (path, what) in [(Path::new("/dev/null"), "a device or a pipe"), (folder.path(), "a folder")] {
            let error = write(path, b"x").unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn errors_name_the_file_that_was_asked_for() {
        let error = write(Path::new("/nowhere/a.json"), b"").unwrap_err().to_string();
        assert_eq!(error, "/nowhere/a.json: No such file or directory (os error 2)");
    }

    #[test]
    fn rights_are_those_of_other_files() {
        let folder = tempfile::tempdir().unwrap();
        let [ours, other] = ["ours", "other"].map(|name| folder.path().join(name));
        write(&ours, b"").unwrap();
        std::fs::write(&other, b"").unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&other));
    }
}
