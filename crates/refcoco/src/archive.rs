//! Zip archives of pictures, read in place.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use flate2::read::DeflateDecoder;
use unicode_normalization::UnicodeNormalization;

use crate::error::{Error, Result, io_error, or_mistaken};
use crate::file_spelling::without_folders;
use crate::regular_file::open_regular;

/// A zip archive. Many threads can read its entries at once, because reads do not move a shared file position.
#[derive(Debug)]
pub(crate) struct Archive {
    pub(crate) path: PathBuf,
    file: File,
    /// By path inside the archive, in Unicode's composed form.
    entries: BTreeMap<String, Entry>,
    /// Paths by file name without folders.
    by_base: BTreeMap<String, Vec<String>>,
    /// Whether each file name is that of one picture, whatever the folders.
    bases_are_unique: bool,
}

/// What an archive has under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Located<'a> {
    /// The path inside the archive.
    At(&'a str),
    /// Two different files that the name fits alike.
    Ambiguous(&'a str, &'a str),
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    header_at: u64,
    stored: u64,
    size: u64,
    packed: Packed,
    /// CRC-32 of the unpacked bytes.
    crc32: u32,
}

/// How an entry is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packed {
    Stored,
    Deflated,
    /// Some other way, which is not read; what to say of it.
    Otherwise(&'static str),
}

impl Packed {
    fn of(entry: &zip::read::ZipFileEntry<'_>) -> Self {
        use zip::CompressionMethod as Method;
        let others = [
            (Method::DEFLATE64, "compressed with Deflate64"),
            (Method::BZIP2, "compressed with bzip2"),
            (Method::LZMA, "compressed with LZMA"),
            (Method::ZSTD, "compressed with Zstandard"),
            (Method::XZ, "compressed with xz"),
            (Method::PPMD, "compressed with PPMd"),
        ];
        match entry.compression() {
            _ if entry.encrypted() => Self::Otherwise("encrypted with a password"),
            Method::STORE => Self::Stored,
            Method::DEFLATE => Self::Deflated,
            method => {
                let known = others.iter().find(|(other, _)| *other == method);
                Self::Otherwise(known.map_or("compressed with an unusual method", |(_, how)| how))
            }
        }
    }
}

/// Size limit of an entry in bytes, above any photo. An archive that claims more is refused before memory is allocated.
const MAX_IMAGE_FILE: u64 = 1 << 28;

/// Approximate maximum compression ratio of DEFLATE.
const MAX_DEFLATE_RATIO: u64 = 1032;

impl Archive {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let broken = |what: String| or_mistaken(path, Error::Image { path: path.to_path_buf(), what });
        let file = open_regular(path)?;
        let again = file.try_clone().map_err(io_error(path))?;
        let archive =
            zip::ZipArchive::new(std::io::BufReader::new(again)).map_err(
                |error| match file_kind::cut_zip(path) {
                    Some(what) => Error::Mistaken { path: path.to_path_buf(), what },
                    None => broken(format!("not a readable zip archive: {error}")),
                },
            )?;
        let (mut entries, mut by_base) = (BTreeMap::new(), BTreeMap::<String, Vec<String>>::new());
        for index in 0..archive.len() {
            let entry = archive.by_index_data(index).map_err(|error| broken(error.to_string()))?;
            let Some(name) = entry.enclosed_name() else { continue };
            let Some(base) = name.file_name().map(|name| name.to_string_lossy().into_owned()) else {
                continue;
            };
            let base = base.nfc().collect::<String>();
            let name: String = name.to_string_lossy().nfc().collect();
            // macOS puts a second, invisible file beside each one.
            if name.starts_with("__MACOSX/") {
                continue;
            }
            if entry.is_dir() {
                continue;
            }
            let entry = Entry {
                header_at: entry.header_start(),
                stored: entry.compressed_size(),
                size: entry.size(),
                packed: Packed::of(&entry),
                crc32: entry.crc32(),
            };
            by_base.entry(base).or_default().push(name.clone());
            entries.insert(name, entry);
        }
        let mut archive = Self { path: path.to_path_buf(), file, entries, by_base, bases_are_unique: false };
        archive.bases_are_unique = archive.by_base.values().all(|paths| archive.are_one_picture(paths));
        Ok(archive)
    }

    /// What tells the contents of entries apart: length and CRC-32.
    fn content(&self, path: &str) -> Option<(u64, u32)> {
        self.entries.get(path).map(|entry| (entry.size, entry.crc32))
    }

    /// Whether all of these entries have the same content.
    fn are_one_picture(&self, paths: &[String]) -> bool {
        paths.iter().map(|path| self.content(path)).collect::<BTreeSet<_>>().len() <= 1
    }

    /// The path inside the archive of a picture. The first of these that exists:
    ///
    /// 1. the name itself
    /// 2. a path that ends with it, such as `train2014/NAME`; of several, the one in the folder that is called like the archive
    /// 3. the name without some of its leading folders, as few as possible, but not without all
    /// 4. any path with the same file name, if no file name stands for two pictures in this archive
    pub(crate) fn locate(&self, name: &str) -> Option<Located<'_>> {
        let name: String = name.nfc().collect();
        if let Some((path, _)) = self.entries.get_key_value(&name) {
            return Some(Located::At(path));
        }
        let all = self.by_base.get(name.rsplit('/').next().unwrap_or(&name))?;
        let ends_with_it =
            |path: &&String| path.strip_suffix(&name).is_some_and(|front| front.ends_with('/'));
        let longer: Vec<String> = all.iter().filter(ends_with_it).cloned().collect();
        if !longer.is_empty() {
            return self.one_of(all.iter().filter(ends_with_it), &name);
        }
        let shorter = without_folders(&name).filter(|rest| rest.contains('/'));
        let mut shorter = shorter.filter_map(|rest| self.entries.get_key_value(rest));
        if let Some((path, _)) = shorter.next() {
            return Some(Located::At(path));
        }
        self.bases_are_unique.then(|| Located::At(&all[0]))
    }

    /// One of several paths that end with a name.
    fn one_of<'a>(&'a self, paths: impl Iterator<Item = &'a String>, name: &str) -> Option<Located<'a>> {
        let paths: Vec<&String> = paths.collect();
        let stem = self.path.file_stem().map(|stem| stem.to_string_lossy()).unwrap_or_default();
        let like_archive = format!("{stem}/{name}");
        if let Some(path) = paths.iter().find(|path| ***path == like_archive) {
            return Some(Located::At(path));
        }
        let first = paths.first()?;
        let other = paths.iter().find(|path| self.content(path) != self.content(first));
        Some(other.map_or(Located::At(first), |other| Located::Ambiguous(first, other)))
    }

    /// Length of an entry in bytes, unpacked.
    pub(crate) fn size(&self, name: &str) -> Option<u64> {
        Some(self.entries.get(name)?.size)
    }

    /// - name: as [`Archive::locate`] gives it
    pub(crate) fn read(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.path.join(name);
        let broken = |what: &str| Error::Image { path: path.clone(), what: what.to_owned() };
        let entry = self.entries.get(name).ok_or_else(|| broken("the archive has no such file"))?;
        if let Packed::Otherwise(how) = entry.packed {
            let what =
                format!("in the archive it is {how}, which is not read: pack the archive anew as plain zip");
            return Err(broken(&what));
        }
        if entry.size > MAX_IMAGE_FILE || entry.stored > MAX_IMAGE_FILE {
            return Err(broken("the archive claims an impossible size"));
        }
        let checked = |bytes: Vec<u8>| match crc32fast::hash(&bytes) == entry.crc32 {
            true => Ok(bytes),
            false => {
                Err(broken("the archive is damaged here: its bytes do not have the CRC-32 that it names"))
            }
        };
        // The local header's name and extra field may differ in length from those in the central directory.
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
        if entry.packed == Packed::Stored {
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

/// Reads every entry of an archive, for fuzzing.
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

    fn archive(folder: &Path, entries: &[(&str, &[u8])]) -> PathBuf {
        let path = folder.join("pictures.zip");
        let mut zip = zip::ZipWriter::new(File::create(&path).unwrap());
        let options =
            zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        for (name, bytes) in entries {
            zip.start_file(*name, options).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap();
        path
    }

    #[test]
    fn entries_are_found_by_the_end_of_their_path() {
        let folder = tempfile::tempdir().unwrap();
        let entries: [(&str, &[u8]); 4] =
            [("top/01/1.jpg", b"a"), ("top/02/1.jpg", b"b"), ("deep/top/01/1.jpg", b"c"), ("x1.jpg", b"d")];
        let archive = Archive::open(&archive(folder.path(), &entries)).unwrap();
        let at = |name| match archive.locate(name) {
            Some(Located::At(path)) => path.to_owned(),
            other => format!("{other:?}"),
        };
        assert_eq!(at("02/1.jpg"), "top/02/1.jpg");
        assert_eq!(at("deep/top/01/1.jpg"), "deep/top/01/1.jpg");
        assert_eq!(at("data/top/01/1.jpg"), "top/01/1.jpg");
        assert_eq!(at("03/1.jpg"), "None");
        assert!(matches!(archive.locate("1.jpg"), Some(Located::Ambiguous(..))));
        assert!(matches!(archive.locate("01/1.jpg"), Some(Located::Ambiguous(..))));
        assert_eq!(archive.read("top/02/1.jpg").unwrap(), b"b");
    }

    #[test]
    fn a_file_name_alone_counts_where_it_says_all() {
        let folder = tempfile::tempdir().unwrap();
        let entries: [(&str, &[u8]); 3] =
            [("sai/00/images/1.jpg", b"a"), ("sai/01/images/2.jpg", b"b"), ("copy/1.jpg", b"a")];
        let archive = Archive::open(&archive(folder.path(), &entries)).unwrap();
        let first = Some(Located::At("copy/1.jpg"));
        assert_eq!(
            archive.locate("benchmark/saiapr/01/images/2.jpg"),
            Some(Located::At("sai/01/images/2.jpg"))
        );
        // Two files with the same content are one picture.
        assert!(
            archive.locate("1.jpg") == first
                || archive.locate("1.jpg") == Some(Located::At("sai/00/images/1.jpg"))
        );
    }

    #[test]
    fn damaged_bytes_are_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = archive(folder.path(), &[("a.jpg", b"first"), ("b.jpg", b"second")]);
        let archive = Archive::open(&path).unwrap();
        // Flips one bit of the stored bytes.
        let mut bytes = std::fs::read(&path).unwrap();
        let at = memchr::memmem::find(&bytes, b"second").unwrap();
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let error = archive.read("b.jpg").unwrap_err().to_string();
        assert!(error.contains("CRC-32") && archive.read("a.jpg").is_ok(), "{error}");
        std::fs::write(folder.path().join("broken.zip"), b"PK\x03\x04 not really").unwrap();
        assert!(Archive::open(&folder.path().join("broken.zip")).is_err());
    }
}
