use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use crate::annotation::{Annotation, ImageRecord, Ref};
use crate::descriptor::Descriptor;
use crate::error::{Error, MaskError, Result};
use crate::image_file::{RgbImage, read_image};
use crate::mask::Mask;
use crate::reader::{Instances, read_instances, read_refs};

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
    image_root: PathBuf,
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
        let image_root =
            descriptor.images.iter().map(|images| data_root.join(images)).find(|path| path.is_dir());
        let image_root = image_root
            .ok_or_else(|| layout(format!("image folder (`{}`)", descriptor.images.join("`, `"))))?;
        let refs = read_refs(&refs_path)?;
        let instances = read_instances(&instances_path)?;
        let mut refs_by_image: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
        for (index, reference) in refs.iter().enumerate() {
            let Ref { ref_id, ann_id, image_id, .. } = reference;
            let fail = |what: String| Error::Record {
                path: refs_path.clone(),
                record: format!("ref_id {ref_id}"),
                what,
            };
            let Some(annotation) = instances.annotations.get(ann_id) else {
                return Err(fail(format!("its annotation {ann_id} is not in instances.json")));
            };
            if annotation.image_id != *image_id {
                return Err(fail(format!(
                    "it names image {image_id}, but its annotation {ann_id} is in image {}",
                    annotation.image_id
                )));
            }
            if !instances.images.contains_key(image_id) {
                return Err(fail(format!("its image {image_id} is not in instances.json")));
            }
            refs_by_image.entry(*image_id).or_default().push(index);
        }
        Ok(Self { descriptor, refs, instances, refs_by_image, image_root })
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

    /// Where an image's file is.
    ///
    /// # Errors
    /// When its name would leave the image folder.
    pub fn image_path(&self, image: &ImageRecord) -> Result<PathBuf> {
        let name = Path::new(&image.file_name);
        let plain = name.components().all(|part| matches!(part, Component::Normal(_)));
        if !plain || image.file_name.is_empty() {
            return Err(Error::Record {
                path: PathBuf::from(&self.descriptor.folder).join("instances.json"),
                record: format!("image {}", image.id),
                what: format!("file name `{}` does not stay inside the image folder", image.file_name),
            });
        }
        Ok(self.image_root.join(name))
    }

    /// Decodes an image and checks its size against the record.
    ///
    /// # Errors
    /// Names the file: missing, undecodable, of another size.
    pub fn image(&self, image_id: i64) -> Result<RgbImage> {
        let record = self.image_record(image_id)?;
        let path = self.image_path(record)?;
        let image = read_image(&path)?;
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
