//! Where a data set's images come from: a folder, or a zip archive read in place.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use flate2::read::DeflateDecoder;

use crate::error::{Error, Result, io_error};
use crate::regular_file::{open_regular, read_regular};

/// Whether a name from an annotation file stays below the folder it is looked up in.
pub(crate) fn stays_inside(name: &str) -> bool {
    !name.is_empty() && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)))
}

/// Images by file name.
#[derive(Debug)]
pub(crate) enum ImageSource {
    Folder(PathBuf),
    Archive(Archive),
}

impl ImageSource {
    /// The first of these places that exists; a name ending in `.zip` is an archive.
    pub(crate) fn find(data_root: &Path, places: &[String]) -> Option<Result<Self>> {
        places.iter().map(|place| data_root.join(place)).find_map(|path| {
            let is_archive = path.extension().is_some_and(|extension| extension == "zip");
            match is_archive {
                true => path.is_file().then(|| Archive::open(&path).map(Self::Archive)),
                false => path.is_dir().then(|| Ok(Self::Folder(path))),
            }
        })
    }

    /// What to call an image in messages: its path, or its path inside the archive.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        match self {
            Self::Folder(folder) => folder.join(name),
            Self::Archive(archive) => archive.path.join(name),
        }
    }

    /// Whether there is such an image.
    pub(crate) fn has(&self, name: &str) -> bool {
        match self {
            Self::Folder(folder) => folder.join(name).is_file(),
            Self::Archive(archive) => archive.entries.contains_key(name),
        }
    }

    /// The image file's bytes.
    pub(crate) fn read(&self, name: &str) -> Result<Vec<u8>> {
        match self {
            Self::Folder(folder) => read_regular(&folder.join(name)),
            Self::Archive(archive) => archive.read(name),
        }
    }
}

/// A zip archive whose entries many threads read at once.
#[derive(Debug)]
pub(crate) struct Archive {
    path: PathBuf,
    file: File,
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    header_at: u64,
    stored: u64,
    size: u64,
    deflated: bool,
    /// CRC-32 of the unpacked bytes.
    crc32: u32,
}

/// No photo is larger; a larger claim is a lie that would cost memory.
const MAX_IMAGE_FILE: u64 = 1 << 28;

/// What a byte of deflated data can stand for at most, about.
const MAX_DEFLATE_RATIO: u64 = 1032;

impl Archive {
    fn open(path: &Path) -> Result<Self> {
        let broken = |what: String| Error::Image { path: path.to_path_buf(), what };
        let file = open_regular(path)?;
        let again = file.try_clone().map_err(io_error(path))?;
        let archive = zip::ZipArchive::new(std::io::BufReader::new(again))
            .map_err(|error| broken(format!("not a readable zip archive: {error}")))?;
        let mut entries = BTreeMap::new();
        for index in 0..archive.len() {
            let entry = archive.by_index_data(index).map_err(|error| broken(error.to_string()))?;
            // Names are looked up without the folders in front of them, such as `train2014/`.
            let Some(name) = entry.enclosed_name() else { continue };
            let Some(name) = name.file_name().map(|name| name.to_string_lossy().into_owned()) else {
                continue;
            };
            let deflated = match entry.compression() {
                zip::CompressionMethod::Stored => false,
                zip::CompressionMethod::Deflated => true,
                _ => continue,
            };
            let entry = Entry {
                header_at: entry.header_start(),
                stored: entry.compressed_size(),
                size: entry.size(),
                deflated,
                crc32: entry.crc32(),
            };
            entries.insert(name, entry);
        }
        Ok(Self { path: path.to_path_buf(), file, entries })
    }

    fn read(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.path.join(name);
        let broken = |what: &str| Error::Image { path: path.clone(), what: what.to_owned() };
        let entry = self.entries.get(name).ok_or_else(|| broken("the archive has no such file"))?;
        if entry.size > MAX_IMAGE_FILE || entry.stored > MAX_IMAGE_FILE {
            return Err(broken("the archive claims an impossible size"));
        }
        let checked = |bytes: Vec<u8>| match crc32fast::hash(&bytes) == entry.crc32 {
            true => Ok(bytes),
            false => {
                Err(broken("the archive is damaged here: its bytes do not have the CRC-32 that it names"))
            }
        };
        // The local header's name and extra field may differ in length from the directory's.
        let mut header = [0; 30];
        self.file.read_exact_at(&mut header, entry.header_at).map_err(io_error(&self.path))?;
        if header[..4] != *b"PK\x03\x04" {
            return Err(broken("the archive is damaged here"));
        }
        let length = |at: usize| u64::from(u16::from_le_bytes([header[at], header[at + 1]]));
        let data_at = entry.header_at + 30 + length(26) + length(28);
        let file_len = self.file.metadata().map_err(io_error(&self.path))?.len();
        if data_at.checked_add(entry.stored).is_none_or(|end| end > file_len) {
            return Err(broken("the archive ends before this file does"));
        }
        let mut stored = vec![0; entry.stored as usize];
        self.file.read_exact_at(&mut stored, data_at).map_err(io_error(&self.path))?;
        if !entry.deflated {
            return checked(stored);
        }
        let mut bytes = Vec::with_capacity(entry.size.min(entry.stored * MAX_DEFLATE_RATIO) as usize);
        DeflateDecoder::new(stored.as_slice())
            .take(entry.size)
            .read_to_end(&mut bytes)
            .map_err(|_| broken("the archive is damaged here"))?;
        checked(bytes)
    }
}

/// For fuzzing: reads all that an archive holds.
#[cfg(fuzzing)]
pub fn read_whole_archive(path: &Path) {
    let Ok(archive) = Archive::open(path) else { return };
    for name in archive.entries.keys() {
        let _ = archive.read(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn entries_are_found_by_their_own_name() {
        let root = tempfile::tempdir().unwrap();
        let mut zip = zip::ZipWriter::new(File::create(root.path().join("train2014.zip")).unwrap());
        let options =
            zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        zip.start_file("train2014/a.jpg", options).unwrap();
        zip.write_all(b"first").unwrap();
        zip.start_file("train2014/b.jpg", options).unwrap();
        zip.write_all(b"second").unwrap();
        zip.finish().unwrap();
        let places = ["train2014".to_owned(), "train2014.zip".to_owned()];
        let source = ImageSource::find(root.path(), &places).unwrap().unwrap();
        assert_eq!(source.read("b.jpg").unwrap(), b"second");
        assert_eq!(source.read("a.jpg").unwrap(), b"first");
        let error = source.read("c.jpg").unwrap_err().to_string();
        assert!(error.contains("train2014.zip/c.jpg"), "{error}");
        // One bit of the stored bytes.
        let path = root.path().join("train2014.zip");
        let mut bytes = std::fs::read(&path).unwrap();
        let at = memchr::memmem::find(&bytes, b"second").unwrap();
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let error = source.read("b.jpg").unwrap_err().to_string();
        assert!(error.contains("CRC-32") && source.read("a.jpg").is_ok(), "{error}");
        // A folder that is there as well comes first, as the places are listed.
        std::fs::create_dir(root.path().join("train2014")).unwrap();
        assert!(matches!(ImageSource::find(root.path(), &places), Some(Ok(ImageSource::Folder(_)))));
        std::fs::write(root.path().join("broken.zip"), b"PK\x03\x04 not really").unwrap();
        assert!(ImageSource::find(root.path(), &["broken.zip".to_owned()]).unwrap().is_err());
    }
}
