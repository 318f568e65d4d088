//! Where a data set's images come from: folders, and zip archives that are read in place.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::archive::{Archive, Located};
use crate::error::{Error, Result, io_error};
use crate::file_spelling::{
    file_below, is_absolute, photo_spellings, similar_file, spellings, without_folders, without_place,
};
use crate::regular_file::read_regular;

/// Images by file name.
#[derive(Debug)]
pub(crate) struct ImageSource {
    places: Vec<Place>,
    /// Whether names may be spelled otherwise than COCO has them.
    photos: bool,
}

#[derive(Debug)]
enum Place {
    Folder(PathBuf, Flat),
    /// Opened when no place before it has an image.
    Archive(PathBuf, OnceLock<Result<Archive, String>>),
}

/// Whether a folder has no folders in it, found out when it is first asked for.
type Flat = OnceLock<bool>;

fn is_flat(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    !entries.into_iter().any(|entry| entry.path().is_dir())
}

/// An image that was found.
enum Found<'a> {
    File(PathBuf),
    Entry(&'a Archive, &'a str),
    /// Two different files of an archive that the name fits alike.
    Ambiguous(&'a Archive, [&'a str; 2]),
}

impl ImageSource {
    /// A folder of own data, where names are what they are but for their spelling.
    pub(crate) fn folder(path: &Path) -> Self {
        Self { places: vec![Place::Folder(path.to_path_buf(), Flat::new())], photos: false }
    }

    /// Those of these places that exist, in order; a name that ends in `.zip` is an archive. `None` if there is none.
    ///
    /// # Errors
    /// When the only place is an archive that cannot be read.
    pub(crate) fn find(data_root: &Path, places: &[String]) -> Option<Result<Self>> {
        let place = |name: &String| {
            let path = data_root.join(name);
            let is_archive = path.extension().is_some_and(|extension| extension == "zip");
            match is_archive {
                true => path.is_file().then(|| Place::Archive(path, OnceLock::new())),
                false => path.is_dir().then(|| Place::Folder(path, Flat::new())),
            }
        };
        let mut places: Vec<Place> = places.iter().filter_map(place).collect();
        let unpacked_twice: Vec<Place> = places.iter().filter_map(Place::unpacked_twice).collect();
        places.extend(unpacked_twice);
        if let [Place::Archive(path, opened)] = &places[..] {
            match Archive::open(path) {
                Ok(archive) => drop(opened.set(Ok(archive))),
                Err(error) => return Some(Err(error)),
            }
        }
        (!places.is_empty()).then_some(Ok(Self { places, photos: true }))
    }

    fn names(&self, name: &str) -> Vec<String> {
        if self.photos { photo_spellings(name) } else { spellings(name) }
    }

    /// The first spelling in the first place that has one. Photos and absolute paths are also sought without leading folders of their
    /// name, as few as possible; without any only where pictures do not lie in folders, which tell pictures of one name apart.
    fn locate(&self, name: &str) -> Option<Found<'_>> {
        let names = self.names(name);
        let found = self.places.iter().find_map(|place| place.locate(&names));
        let shorter = || {
            self.places.iter().find_map(|place| {
                let shorter = names.iter().flat_map(|name| without_folders(name));
                let shorter = shorter.filter(|name| name.contains('/') || place.is_flat());
                place.locate(&shorter.map(str::to_owned).collect::<Vec<_>>())
            })
        };
        found.or_else(|| if self.photos || is_absolute(name) { shorter() } else { None })
    }

    /// Path of an image, or where it would be if it were there. In an archive: the archive's path joined with the path inside.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        match self.locate(name) {
            Some(Found::File(path)) => path,
            Some(Found::Entry(archive, name) | Found::Ambiguous(archive, [name, _])) => {
                archive.path.join(name)
            }
            // An absolute name would replace the folder's path.
            None => self.places.first().map_or_else(PathBuf::new, |place| place.path().join(relative(name))),
        }
    }

    /// Whether the image exists.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.locate(name).is_some()
    }

    /// Length of an image's file in bytes, unpacked; `None` if it does not exist.
    pub(crate) fn len(&self, name: &str) -> Option<u64> {
        match self.locate(name)? {
            Found::File(path) => Some(std::fs::metadata(path).ok()?.len()),
            Found::Entry(archive, name) => archive.size(name),
            Found::Ambiguous(..) => None,
        }
    }

    /// The bytes of an image's file.
    pub(crate) fn read(&self, name: &str) -> Result<Vec<u8>> {
        match self.locate(name) {
            Some(Found::File(path)) => read_regular(&path),
            Some(Found::Entry(archive, name)) => archive.read(name),
            Some(Found::Ambiguous(archive, [one, other])) => Err(Error::Record {
                path: archive.path.clone(),
                record: format!("`{name}`"),
                what: format!(
                    "it may be `{one}` or `{other}`, which differ: write folders in front of the name"
                ),
            }),
            None => Err(self.missing(name)),
        }
    }

    /// Why an image cannot be found.
    pub(crate) fn missing(&self, name: &str) -> Error {
        let path = self.path(name);
        let broken = self.places.iter().find_map(|place| match place {
            Place::Archive(_, opened) => opened.get()?.as_ref().err(),
            Place::Folder(..) => None,
        });
        if let Some(what) = broken {
            return Error::Image { path, what: format!("not found, and an archive cannot be read: {what}") };
        }
        // It may be there, and be unreadable.
        if let Err(error) = std::fs::metadata(&path)
            && !matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
        {
            return io_error(&path)(error);
        }
        if path.is_symlink() {
            let what = "this is a link to a file that does not exist";
            return io_error(&path)(std::io::Error::new(std::io::ErrorKind::NotFound, what));
        }
        let places: Vec<String> =
            self.places.iter().map(|place| place.path().display().to_string()).collect();
        let names = self.names(name);
        let others = match (&names[1..], is_absolute(name)) {
            ([], false) => String::new(),
            ([], true) => {
                ", also without folders in front: absolute paths are looked for below it".to_owned()
            }
            (others, _) => format!(", also as {}", others.join(", ")),
        };
        let folders = self.places.iter().filter(|place| matches!(place, Place::Folder(..)));
        let similar = folders.filter_map(|place| similar_file(place.path(), &relative(name))).next();
        let similar = similar.map_or_else(String::new, |found| format!("; there is `{found}`"));
        let what = format!("No such file; looked in {}{others}{similar}", places.join(", "));
        io_error(&path)(std::io::Error::new(std::io::ErrorKind::NotFound, what))
    }
}

/// A name without what stands for the root.
fn relative(name: &str) -> String {
    spellings(name).into_iter().next().unwrap_or_default()
}

impl Place {
    fn path(&self) -> &Path {
        match self {
            Self::Folder(path, _) | Self::Archive(path, _) => path,
        }
    }

    /// The folder of the same name inside of a folder, as unpacking `train2014.zip` into `train2014` makes it.
    fn unpacked_twice(&self) -> Option<Self> {
        let Self::Folder(folder, _) = self else { return None };
        let inner = folder.join(folder.file_name()?);
        inner.is_dir().then(|| Self::Folder(inner, Flat::new()))
    }

    /// Whether pictures lie in no folders here. Archives look for that themselves.
    fn is_flat(&self) -> bool {
        match self {
            Self::Folder(folder, flat) => *flat.get_or_init(|| is_flat(folder)),
            Self::Archive(..) => false,
        }
    }

    fn locate(&self, names: &[String]) -> Option<Found<'_>> {
        match self {
            Self::Folder(folder, _) => {
                let own = names.iter().filter_map(|name| without_place(name, folder));
                names
                    .iter()
                    .map(String::as_str)
                    .chain(own)
                    .find_map(|name| file_below(folder, name))
                    .map(Found::File)
            }
            Self::Archive(path, opened) => {
                let archive = opened.get_or_init(|| Archive::open(path).map_err(|error| error.to_string()));
                let archive = archive.as_ref().ok()?;
                let stem = path.with_extension("");
                let own = names.iter().filter_map(|name| without_place(name, &stem));
                let mut all = names.iter().map(String::as_str).chain(own);
                all.find_map(|name| archive.locate(name)).map(|located| match located {
                    Located::At(name) => Found::Entry(archive, name),
                    Located::Ambiguous(one, other) => Found::Ambiguous(archive, [one, other]),
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write;

    #[test]
    fn every_place_is_looked_in() {
        let root = tempfile::tempdir().unwrap();
        let mut zip = zip::ZipWriter::new(File::create(root.path().join("train2014.zip")).unwrap());
        let options =
            zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        zip.start_file("train2014/COCO_train2014_000000000001.jpg", options).unwrap();
        zip.write_all(b"zipped").unwrap();
        zip.finish().unwrap();
        // An empty folder, and one with COCO 2017's names.
        std::fs::create_dir_all(root.path().join("train2014")).unwrap();
        std::fs::create_dir_all(root.path().join("train2017")).unwrap();
        std::fs::write(root.path().join("train2017/000000000002.jpg"), b"later").unwrap();
        let places = ["train2014", "train2014.zip", "train2017", "nowhere"].map(str::to_owned);
        let source = ImageSource::find(root.path(), &places).unwrap().unwrap();
        assert_eq!(source.read("COCO_train2014_000000000001.jpg").unwrap(), b"zipped");
        assert_eq!(source.read("COCO_train2014_000000000002.jpg").unwrap(), b"later");
        assert!(source.has("train2014/COCO_train2014_000000000002.jpg"));
        let error = source.read("COCO_train2014_000000000003.jpg").unwrap_err().to_string();
        assert!(
            error.contains("train2014.zip")
                && error.contains("train2017")
                && error.contains("000000000003.jpg"),
            "{error}"
        );
        assert!(ImageSource::find(root.path(), &["nowhere".to_owned()]).is_none());
        std::fs::write(root.path().join("broken.zip"), b"PK\x03\x04 not really").unwrap();
        assert!(ImageSource::find(root.path(), &["broken.zip".to_owned()]).unwrap().is_err());
    }
}
