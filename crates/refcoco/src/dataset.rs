use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use crate::annotation::{Annotation, ImageRecord, Ref};
use crate::descriptor::Descriptor;
use crate::error::{Error, MaskError, Result};
use crate::image_file::{RgbImage, decode_image};
use crate::image_source::ImageSource;
use crate::mask::Mask;
use crate::reader::{Instances, read_instances, read_refs};
use crate::verify::Problem;

/// One data set, indexed: refs by position, images and annotations by number.
#[derive(Debug)]
pub struct Dataset {
    /// What and where it is.
    pub descriptor: Descriptor,
    /// All refs, in the order of the file.
    pub refs: Vec<Ref>,
    /// Images, annotations and categories.
    pub instances: Instances,
    refs_by_image: BTreeMap<i64, Vec<usize>>,
    images: ImageSource,
    refs_path: PathBuf,
}

impl Dataset {
    /// Opens the data set of this name below a data root.
    ///
    /// # Errors
    /// Names the missing file or folder, or the ref whose annotation or image does not exist.
    pub fn open(name: &str, data_root: &Path) -> Result<Self> {
        Self::open_described(Descriptor::named(name)?, data_root)
    }

    /// Opens a data set by its descriptor.
    ///
    /// # Errors
    /// As [`Dataset::open`].
    pub fn open_described(descriptor: Descriptor, data_root: &Path) -> Result<Self> {
        let dataset = Self::read(descriptor, data_root)?;
        let first = dataset.dangling().next();
        match first {
            Some((record, what)) => Err(Error::Record { path: dataset.refs_path, record, what }),
            None => Ok(dataset),
        }
    }

    /// Opens a data set whose refs may point at nothing, and says which do.
    pub(crate) fn open_leniently(descriptor: Descriptor, data_root: &Path) -> Result<(Self, Vec<Problem>)> {
        let dataset = Self::read(descriptor, data_root)?;
        let problems = dataset.dangling().map(|(record, what)| Problem { record, what }).collect();
        Ok((dataset, problems))
    }

    fn read(descriptor: Descriptor, data_root: &Path) -> Result<Self> {
        let folder = data_root.join(&descriptor.folder);
        let layout = |what: String| Error::Layout {
            dataset: descriptor.name.clone(),
            what,
            root: data_root.to_path_buf(),
            advice: "see datasets/README.md for the layout, or point --data-root at the folder that has it"
                .into(),
        };
        let (refs_path, instances_path) = (folder.join(&descriptor.refs), folder.join("instances.json"));
        for path in [&refs_path, &instances_path] {
            if !path.is_file() {
                let shown = path.strip_prefix(data_root).unwrap_or(path);
                return Err(layout(format!("file `{}`", shown.display())));
            }
        }
        let images = ImageSource::find(data_root, &descriptor.images)
            .ok_or_else(|| layout(format!("images (`{}`)", descriptor.images.join("`, `"))))??;
        let refs = read_refs(&refs_path)?;
        let instances = read_instances(&instances_path)?;
        let mut refs_by_image: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
        for (index, reference) in refs.iter().enumerate() {
            refs_by_image.entry(reference.image_id).or_default().push(index);
        }
        Ok(Self { descriptor, refs, instances, refs_by_image, images, refs_path })
    }

    /// Refs whose annotation or image does not exist or does not fit: record, and what is wrong.
    fn dangling(&self) -> impl Iterator<Item = (String, String)> {
        self.refs.iter().filter_map(|reference| {
            let Ref { ref_id, ann_id, image_id, .. } = reference;
            let what = match self.instances.annotations.get(ann_id) {
                None => format!("its annotation {ann_id} is not in instances.json"),
                Some(annotation) if annotation.image_id != *image_id => format!(
                    "it names image {image_id}, but its annotation {ann_id} is in image {}",
                    annotation.image_id
                ),
                Some(_) if !self.instances.images.contains_key(image_id) => {
                    format!("its image {image_id} is not in instances.json")
                }
                Some(_) => return None,
            };
            Some((format!("ref_id {ref_id}"), what))
        })
    }

    /// Names of the splits there are, in the order of their first ref.
    pub fn splits(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for reference in &self.refs {
            if !names.contains(&reference.split.as_str()) {
                names.push(&reference.split);
            }
        }
        names
    }

    /// Refs per split.
    pub fn ref_counts(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for reference in &self.refs {
            *counts.entry(reference.split.as_str()).or_default() += 1;
        }
        counts
    }

    /// Positions of a split's refs.
    ///
    /// # Errors
    /// [`Error::UnknownSplit`] when it has none.
    pub fn split(&self, name: &str) -> Result<Vec<usize>> {
        let refs: Vec<usize> = (0..self.refs.len()).filter(|&index| self.refs[index].split == name).collect();
        if refs.is_empty() {
            return Err(Error::UnknownSplit {
                dataset: self.descriptor.name.clone(),
                split: name.to_owned(),
                known: self.splits().join(", "),
            });
        }
        Ok(refs)
    }

    /// Positions of all refs in an image, in the order of the file.
    pub fn refs_in_image(&self, image_id: i64) -> &[usize] {
        self.refs_by_image.get(&image_id).map_or(&[], Vec::as_slice)
    }

    fn annotation(&self, ann_id: i64) -> Result<&Annotation> {
        self.instances.annotations.get(&ann_id).ok_or_else(|| self.unknown(format!("annotation {ann_id}")))
    }

    /// The record of an image.
    ///
    /// # Errors
    /// When there is none of this number.
    pub fn image_record(&self, image_id: i64) -> Result<&ImageRecord> {
        self.instances.images.get(&image_id).ok_or_else(|| self.unknown(format!("image {image_id}")))
    }

    fn unknown(&self, record: String) -> Error {
        let path = PathBuf::from(&self.descriptor.folder).join("instances.json");
        Error::Record { path, record, what: "there is no such record".into() }
    }

    /// Where an image's file is. In an archive, the archive's path with the file's name behind it.
    ///
    /// # Errors
    /// When its name would leave the image folder.
    pub fn image_path(&self, image: &ImageRecord) -> Result<PathBuf> {
        Ok(self.images.path(self.image_name(image)?))
    }

    fn image_name<'a>(&self, image: &'a ImageRecord) -> Result<&'a str> {
        let plain = Path::new(&image.file_name).components().all(|part| matches!(part, Component::Normal(_)));
        if !plain || image.file_name.is_empty() {
            return Err(Error::Record {
                path: PathBuf::from(&self.descriptor.folder).join("instances.json"),
                record: format!("image {}", image.id),
                what: format!("file name `{}` does not stay inside the image folder", image.file_name),
            });
        }
        Ok(&image.file_name)
    }

    /// An image file's bytes.
    ///
    /// # Errors
    /// When there is no such image, or its file cannot be read.
    pub fn image_bytes(&self, image_id: i64) -> Result<Vec<u8>> {
        let record = self.image_record(image_id)?;
        self.images.read(self.image_name(record)?)
    }

    /// Decodes an image and checks its size against the record.
    ///
    /// # Errors
    /// Names the file: missing, undecodable, of another size.
    pub fn image(&self, image_id: i64) -> Result<RgbImage> {
        self.decode_image_file(image_id, &self.image_bytes(image_id)?)
    }

    /// [`Dataset::image`] from bytes that were read already.
    pub(crate) fn decode_image_file(&self, image_id: i64, bytes: &[u8]) -> Result<RgbImage> {
        let record = self.image_record(image_id)?;
        let path = self.image_path(record)?;
        let image = decode_image(bytes).map_err(|what| Error::Image { path: path.clone(), what })?;
        let (found, expected) = ((image.width, image.height), (record.width, record.height));
        if found != expected {
            return Err(Error::ImageSize { path, found, expected });
        }
        Ok(image)
    }

    /// The mask of an annotation in its image's pixels: the union of its parts.
    ///
    /// # Errors
    /// [`Error::Segmentation`] names the annotation.
    pub fn mask(&self, ann_id: i64) -> Result<Mask> {
        self.decode(ann_id, Mask::from_segmentation)
    }

    /// The parts of an annotation, one mask each. They may overlap.
    ///
    /// # Errors
    /// [`Error::Segmentation`] names the annotation.
    pub fn mask_parts(&self, ann_id: i64) -> Result<Vec<Mask>> {
        self.decode(ann_id, Mask::parts_of_segmentation)
    }

    fn decode<T>(
        &self,
        ann_id: i64,
        decode: impl FnOnce(usize, usize, &serde_json::Value) -> Result<T, MaskError>,
    ) -> Result<T> {
        let annotation = self.annotation(ann_id)?;
        let image = self.image_record(annotation.image_id)?;
        let value = serde_json::from_str(annotation.segmentation.get())
            .map_err(|error| MaskError::Kind(error.to_string()))
            .and_then(|value| decode(image.width, image.height, &value));
        value.map_err(|source| Error::Segmentation { ann_id, source })
    }
}
