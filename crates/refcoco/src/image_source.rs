//! Where a data set's images come from: folders, and zip archives that are read in place.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::archive::Archive;
use crate::error::{Error, Result, io_error};
use crate::file_spelling::{photo_spellings, spellings, without_place};
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
    Folder(PathBuf),
    /// Opened when no place before it has an image.
    Archive(PathBuf, OnceLock<Result<Archive, String>>),
}

/// An image that was found.
enum Found<'a> {
    File(PathBuf),
    Entry(&'a Archive, &'a str),
}

impl ImageSource {
    /// A folder of own data, where names are what they are but for their spelling.
    pub(crate) fn folder(path: &Path) -> Self {
        Self { places: vec![Place::Folder(path.to_path_buf())], photos: false }
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
                false => path.is_dir().then(|| Place::Folder(path)),
            }
        };
        let places: Vec<Place> = places.iter().filter_map(place).collect();
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

    /// The first spelling in the first place that has one.
    fn locate(&self, name: &str) -> Option<Found<'_>> {
        let names = self.names(name);
        self.places.iter().find_map(|place| place.locate(&names))
    }

    /// Path of an image, or where it would be if it were there. In an archive: the archive's path joined with the path inside.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        match self.locate(name) {
            Some(Found::File(path)) => path,
            Some(Found::Entry(archive, name)) => archive.path.join(name),
            None => self.places.first().map_or_else(PathBuf::new, |place| place.path().join(name)),
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
        }
    }

    /// The bytes of an image's file.
    pub(crate) fn read(&self, name: &str) -> Result<Vec<u8>> {
        match self.locate(name) {
            Some(Found::File(path)) => read_regular(&path),
            Some(Found::Entry(archive, name)) => archive.read(name),
            None => Err(self.missing(name)),
        }
    }

    fn missing(&self, name: &str) -> Error {
        let path = self.path(name);
        let broken = self.places.iter().find_map(|place| match place {
            Place::Archive(_, opened) => opened.get()?.as_ref().err(),
            Place::Folder(_) => None,
        });
        if let Some(what) = broken {
            return Error::Image { path, what: format!("not found, and an archive cannot be read: {what}") };
        }
        // Own data: report the error of the operating system.
        if !self.photos
            && let Err(error) = std::fs::metadata(&path)
        {
            return io_error(&path)(error);
        }
        let places: Vec<String> =
            self.places.iter().map(|place| place.path().display().to_string()).collect();
        let names = self.names(name);
        let others = match &names[1..] {
            [] => String::new(),
            others => format!(", also as {}", others.join(", ")),
        };
        Error::Image { path, what: format!("No such file; looked in {}{others}", places.join(", ")) }
    }
}

impl Place {
    fn path(&self) -> &Path {
        match self {
            Self::Folder(path) | Self::Archive(path, _) => path,
        }
    }

    fn locate(&self, names: &[String]) -> Option<Found<'_>> {
        match self {
            Self::Folder(folder) => {
                let own = names.iter().filter_map(|name| without_place(name, folder));
                let paths = names.iter().map(String::as_str).chain(own).map(|name| folder.join(name));
                paths.into_iter().find(|path| path.exists()).map(Found::File)
            }
            Self::Archive(path, opened) => {
                let archive = opened.get_or_init(|| Archive::open(path).map_err(|error| error.to_string()));
                let archive = archive.as_ref().ok()?;
                let stem = path.with_extension("");
                let own = names.iter().filter_map(|name| without_place(name, &stem));
                let mut all = names.iter().map(String::as_str).chain(own);
                all.find_map(|name| archive.locate(name)).map(|name| Found::Entry(archive, name))
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
