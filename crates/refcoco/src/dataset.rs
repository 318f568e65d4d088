use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::annotation::{Annotation, ImageRecord, Ref};
use crate::dataset_files::DatasetFiles;
use crate::descriptor::{AnnotationFormat, Descriptor};
use crate::error::{Error, MaskError, Result, Turned};
use crate::file_spelling::{SHOWN, no_mask_file, shortened, stays_inside};
use crate::image_file::{ExifTurn, RgbImage, decode_image_into};
use crate::image_source::ImageSource;
use crate::mask::{Mask, paint, segmentation_value, shapes_of};
use crate::mask_file::read_mask;
use crate::memory_rule::afford_pixels;
use crate::problem::Problem;
use crate::reader::Instances;
use crate::unreadable::LeftOut;

/// One data set, indexed: refs by position, images and annotations by id.
#[derive(Debug)]
pub struct Dataset {
    /// Name, format and location of the data set.
    pub descriptor: Descriptor,
    /// All refs, in the order of the file.
    pub refs: Vec<Ref>,
    /// Images, annotations and categories.
    pub instances: Instances,
    refs_by_image: BTreeMap<i64, Vec<usize>>,
    annotations_by_image: BTreeMap<i64, Vec<i64>>,
    images: ImageSource,
    refs_path: PathBuf,
    instances_path: PathBuf,
    /// Annotations whose mask could not be read when it was asked for as a distractor's.
    left_out: Mutex<BTreeSet<i64>>,
    pub(crate) left_out_refs: Option<LeftOut>,
}

impl Dataset {
    /// Opens a data set below a data root by name; see [`Descriptor::find`] for names.
    ///
    /// # Errors
    /// Names the missing file or folder, or the ref whose annotation or image does not exist.
    ///
    /// ```
    /// # fn main() -> refcoco::Result<()> {
    /// # let root = std::env::temp_dir().join(format!("refcoco-doc-{}", std::process::id()));
    /// # std::fs::create_dir_all(&root).unwrap();
    /// # let few = refcoco::refshapes::Settings { train_images: 2, val_images: 1, test_a_images: 1, test_b_images: 1, ..Default::default() };
    /// # refcoco::refshapes::generate(&few, &root, |_| {})?;
    /// let dataset = refcoco::Dataset::open("refshapes", &root)?;
    /// let reference = &dataset.refs[dataset.split("val")?[0]];
    /// let mask = dataset.target(reference)?;
    /// println!("{:?} asks for {} pixels", reference.expressions[0].sent, mask.area());
    /// # std::fs::remove_dir_all(&root).unwrap();
    /// # Ok(())
    /// # }
    /// ```
    pub fn open(name: &str, data_root: &Path) -> Result<Self> {
        Self::open_described(Descriptor::find(name, data_root)?, data_root)
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

    /// Opens a data set even if refs point to missing or inconsistent records, and lists these refs.
    pub(crate) fn open_leniently(descriptor: Descriptor, data_root: &Path) -> Result<(Self, Vec<Problem>)> {
        let dataset = Self::read(descriptor, data_root)?;
        let problems = dataset.dangling().map(|(record, what)| Problem { record, what }).collect();
        Ok((dataset, problems))
    }

    fn read(descriptor: Descriptor, data_root: &Path) -> Result<Self> {
        let DatasetFiles { refs, instances, images, refs_path, instances_path } =
            DatasetFiles::read(&descriptor, data_root)?;
        let mut refs_by_image: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
        for (index, reference) in refs.iter().enumerate() {
            refs_by_image.entry(reference.image_id).or_default().push(index);
        }
        let mut annotations_by_image: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
        for annotation in instances.annotations.values() {
            annotations_by_image.entry(annotation.image_id).or_default().push(annotation.id);
        }
        Ok(Self {
            descriptor,
            refs,
            instances,
            refs_by_image,
            annotations_by_image,
            images,
            refs_path,
            instances_path,
            left_out: Mutex::default(),
            left_out_refs: None,
        })
    }

    /// Refs whose annotations or image are missing or inconsistent, as pairs of record and problem.
    fn dangling(&self) -> impl Iterator<Item = (String, String)> {
        self.refs.iter().filter_map(|reference| {
            let Ref { ref_id, ann_ids, image_id, .. } = reference;
            let wrong = |ann_id: &i64| match self.instances.annotations.get(ann_id) {
                None => {
                    let why = self.instances.unusable.why_no_annotation(*ann_id);
                    Some(format!("its annotation {ann_id} {why}"))
                }
                Some(annotation) if annotation.image_id != *image_id => Some(format!(
                    "it names image {image_id}, but its annotation {ann_id} is in image {}",
                    annotation.image_id
                )),
                Some(_) => None,
            };
            let what = ann_ids.iter().find_map(wrong).or_else(|| {
                let known = self.instances.images.contains_key(image_id);
                let why = || self.instances.unusable.why_no_image(*image_id);
                (!known).then(|| format!("its image {image_id} {}", why()))
            })?;
            Some((format!("ref_id {ref_id}"), what))
        })
    }

    /// Names of the splits, in the order of their first ref.
    pub fn splits(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for reference in &self.refs {
            if !names.contains(&reference.split.as_str()) {
                names.push(&reference.split);
            }
        }
        names
    }

    /// The splits that are evaluated and have refs: the descriptor's validation split, then its test splits.
    pub fn evaluated_splits(&self) -> Vec<String> {
        let present = self.splits();
        let named = std::iter::once(&self.descriptor.val).chain(&self.descriptor.test);
        named.filter(|split| present.contains(&split.as_str())).cloned().collect()
    }

    /// Whether the validation split has refs.
    pub fn has_validation_split(&self) -> bool {
        self.refs.iter().any(|reference| reference.split == self.descriptor.val)
    }

    /// Number of refs per split.
    pub fn ref_counts(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for reference in &self.refs {
            *counts.entry(reference.split.as_str()).or_default() += 1;
        }
        counts
    }

    /// Indices of a split's refs in [`Dataset::refs`].
    ///
    /// # Errors
    /// [`Error::UnknownSplit`] when the split does not exist.
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

    /// Indices of all refs in an image, in the order of the file.
    pub fn refs_in_image(&self, image_id: i64) -> &[usize] {
        self.refs_by_image.get(&image_id).map_or(&[], Vec::as_slice)
    }

    fn annotation(&self, ann_id: i64) -> Result<&Annotation> {
        self.instances.annotations.get(&ann_id).ok_or_else(|| self.unknown(format!("annotation {ann_id}")))
    }

    /// The record of an image.
    ///
    /// # Errors
    /// When no image has this id.
    pub fn image_record(&self, image_id: i64) -> Result<&ImageRecord> {
        self.instances.images.get(&image_id).ok_or_else(|| self.unknown(format!("image {image_id}")))
    }

    fn unknown(&self, record: String) -> Error {
        Error::Record { path: self.instances_path.clone(), record, what: "there is no such record".into() }
    }

    /// Path of an image's file. In an archive: the archive's path joined with the file's name.
    ///
    /// # Errors
    /// When the file's name would leave the image folder.
    pub fn image_path(&self, image: &ImageRecord) -> Result<PathBuf> {
        Ok(self.images.path(self.image_name(image)?))
    }

    fn image_name<'a>(&self, image: &'a ImageRecord) -> Result<&'a str> {
        if !stays_inside(&image.file_name) {
            return Err(Error::Record {
                path: self.instances_path.clone(),
                record: format!("image {}", image.id),
                what: format!("file name `{}` does not stay inside the image folder", image.file_name),
            });
        }
        Ok(&image.file_name)
    }

    /// Ids of the images that refs are in but whose file does not exist.
    pub fn missing_images(&self) -> Vec<i64> {
        let there = |id: &i64| {
            let record = self.instances.images.get(id);
            record.is_some_and(|record| self.image_name(record).is_ok_and(|name| self.images.has(name)))
        };
        self.refs_by_image.keys().copied().filter(|id| !there(id)).collect()
    }

    /// Reads the bytes of an image's file.
    ///
    /// # Errors
    /// When there is no such image, or its file cannot be read.
    pub fn image_bytes(&self, image_id: i64) -> Result<Vec<u8>> {
        let record = self.image_record(image_id)?;
        self.images.read(self.image_name(record)?)
    }

    /// Length of an image's file in bytes; `None` if it cannot be found.
    pub(crate) fn image_len(&self, image_id: i64) -> Option<u64> {
        let record = self.instances.images.get(&image_id)?;
        self.images.len(self.image_name(record).ok()?)
    }

    /// Decodes an image and checks its size against the record.
    ///
    /// # Errors
    /// When the file is missing, cannot be decoded, or has another size. The error names the file.
    pub fn image(&self, image_id: i64) -> Result<RgbImage> {
        self.decode_image_file(image_id, &self.image_bytes(image_id)?, Vec::new())
    }

    /// [`Dataset::image`] from bytes that were read already, into a reused buffer.
    pub(crate) fn decode_image_file(&self, image_id: i64, bytes: &[u8], memory: Vec<u8>) -> Result<RgbImage> {
        let record = self.image_record(image_id)?;
        // Looked up for errors only.
        let path = || self.image_path(record);
        let image = match decode_image_into(bytes, memory) {
            Ok(image) => image,
            Err(what) => {
                let path = path()?;
                return Err(match file_kind::mistaken(bytes) {
                    Some(what) => Error::Mistaken { path, what },
                    None => Error::Image { path, what },
                });
            }
        };
        let (found, expected) = ((image.width, image.height), (record.width, record.height));
        if found != expected {
            let turned = ExifTurn::of(bytes) == ExifTurn::ExchangesSides && found == (expected.1, expected.0);
            return Err(Error::ImageSize { path: path()?, found, expected, turned: Turned(turned) });
        }
        Ok(image)
    }

    /// Ids of the annotations that [`Dataset::distractor_masks`] has left out so far, because their mask cannot be read.
    pub fn left_out_distractors(&self) -> BTreeSet<i64> {
        self.left_out.lock().map(|left_out| left_out.clone()).unwrap_or_default()
    }

    /// Annotation ids of a ref's distractors: the other non-crowd objects in its image with a category of its targets. A model
    /// that understands only the category would confuse them with the targets. Empty for a ref without a target.
    pub fn distractors(&self, reference: &Ref) -> Vec<i64> {
        let categories: Vec<i64> = reference
            .ann_ids
            .iter()
            .filter_map(|id| Some(self.instances.annotations.get(id)?.category_id))
            .collect();
        self.annotations_in_image(reference.image_id)
            .iter()
            .copied()
            .filter(|id| {
                let other = &self.instances.annotations[id];
                !other.is_crowd && categories.contains(&other.category_id) && !reference.ann_ids.contains(id)
            })
            .collect()
    }

    /// The masks of a ref's [distractors](Self::distractors), but for those that cannot be read: a bad record that no expression
    /// asks for must not end an evaluation ([`Dataset::left_out_distractors`]).
    ///
    /// # Errors
    /// When the masks together take too much memory.
    pub fn distractor_masks(&self, reference: &Ref) -> Result<Vec<Mask>> {
        let distractors = self.distractors(reference);
        self.afford_masks(self.image_record(reference.image_id)?, distractors.len())?;
        let mut masks = Vec::with_capacity(distractors.len());
        for ann_id in distractors {
            match self.mask(ann_id) {
                Ok(mask) => masks.push(mask),
                Err(_) => {
                    if let Ok(mut left_out) = self.left_out.lock() {
                        left_out.insert(ann_id);
                    }
                }
            }
        }
        Ok(masks)
    }

    /// # Errors
    /// When `n` masks of an image would take more memory than the limit.
    fn afford_masks(&self, image: &ImageRecord, n: usize) -> Result<()> {
        afford_pixels(image.width as u64, image.height as u64, n as u64).map_err(|what| Error::Record {
            path: self.instances_path.clone(),
            record: format!("image {}: {n} masks", image.id),
            what,
        })
    }

    /// Ids of all annotations in an image, in ascending order.
    pub fn annotations_in_image(&self, image_id: i64) -> &[i64] {
        self.annotations_by_image.get(&image_id).map_or(&[], Vec::as_slice)
    }

    /// Target mask of a ref: the union of its targets' masks, empty if it has none.
    ///
    /// # Errors
    /// As [`Dataset::mask`], and when its image has no record.
    pub fn target(&self, reference: &Ref) -> Result<Mask> {
        if let [ann_id] = reference.ann_ids[..] {
            return self.mask(ann_id);
        }
        let image = self.image_record(reference.image_id)?;
        self.afford_masks(image, 2)?;
        let mut union = Mask::zeros(image.width, image.height);
        for &ann_id in &reference.ann_ids {
            union.unite(&self.mask(ann_id)?);
        }
        Ok(union)
    }

    /// Mask of an annotation in its image's pixels: the union of its parts.
    ///
    /// # Errors
    /// [`Error::Segmentation`] names the annotation.
    pub fn mask(&self, ann_id: i64) -> Result<Mask> {
        match self.mask_file(ann_id)? {
            Some(path) => self.mask_from_file(ann_id, &path),
            None => self.decode(ann_id, Mask::from_segmentation),
        }
    }

    /// Parts of an annotation, one mask each. They may overlap.
    ///
    /// # Errors
    /// [`Error::Segmentation`] names the annotation.
    pub fn mask_parts(&self, ann_id: i64) -> Result<Vec<Mask>> {
        match self.mask_file(ann_id)? {
            Some(path) => Ok(vec![self.mask_from_file(ann_id, &path)?]),
            None => self.decode(ann_id, Mask::parts_of_segmentation),
        }
    }

    /// Pixels of a ref's image that an evaluation leaves out, as ReasonSeg marks them; `None` if there are none.
    ///
    /// # Errors
    /// As [`Dataset::mask`].
    pub fn ignored(&self, reference: &Ref) -> Result<Option<Mask>> {
        if self.descriptor.format != AnnotationFormat::Reasonseg {
            return Ok(None);
        }
        let [ann_id] = reference.ann_ids[..] else { return Ok(None) };
        let ignored = self.decode(ann_id, |width, height, value| match shapes_of(value) {
            Some(shapes) => Ok(paint(width, height, shapes)?.ignored),
            None => Ok(Mask::zeros(width, height)),
        })?;
        Ok(Some(ignored).filter(|ignored| ignored.area() > 0))
    }

    /// Path of the mask file, where the format names one in place of a segmentation.
    pub(crate) fn mask_file(&self, ann_id: i64) -> Result<Option<PathBuf>> {
        let text = self.annotation(ann_id)?.segmentation.get();
        if !self.descriptor.format.has_mask_files() || !text.starts_with('"') {
            return Ok(None);
        }
        let name: String = serde_json::from_str(text)
            .map_err(|error| self.bad_mask(ann_id, MaskError::Kind(error.to_string())))?;
        if let Some(what) = no_mask_file(&name) {
            return Err(self.bad_mask(ann_id, MaskError::Kind(what.into())));
        }
        if !stays_inside(&name) {
            let what = format!("mask `{}` does not stay inside the file's folder", shortened(&name, SHOWN));
            let record = format!("line {ann_id}");
            return Err(Error::Record { path: self.refs_path.clone(), record, what });
        }
        let path = self.images.path(&name);
        if path.exists() { Ok(Some(path)) } else { Err(self.images.missing(&name)) }
    }

    fn mask_from_file(&self, ann_id: i64, path: &Path) -> Result<Mask> {
        let mask = read_mask(path)?;
        let image = self.image_record(self.annotation(ann_id)?.image_id)?;
        let (found, expected) = ((mask.height, mask.width), (image.height, image.width));
        if found != expected {
            return Err(self.bad_mask(ann_id, self.wrong_size(image, found)));
        }
        Ok(mask)
    }

    fn decode<T>(
        &self,
        ann_id: i64,
        decode: impl FnOnce(usize, usize, &serde_json::Value) -> Result<T, MaskError>,
    ) -> Result<T> {
        let annotation = self.annotation(ann_id)?;
        let image = self.image_record(annotation.image_id)?;
        let value = segmentation_value(annotation.segmentation.get());
        value
            .and_then(|value| decode(image.width, image.height, &value))
            .map_err(|error| match error {
                MaskError::Size { found, .. } => self.wrong_size(image, found),
                other => other,
            })
            .map_err(|source| self.bad_mask(ann_id, source))
    }

    /// Whether an image's file has an EXIF orientation that turns or mirrors it, as phones write it.
    fn is_turned(&self, image: &ImageRecord) -> bool {
        let bytes = self.image_name(image).and_then(|name| self.images.read(name));
        bytes.is_ok_and(|bytes| ExifTurn::of(&bytes) != ExifTurn::None)
    }

    /// - found: height and width of the mask
    fn wrong_size(&self, image: &ImageRecord, found: (usize, usize)) -> MaskError {
        let turned = Turned(found == (image.width, image.height) && self.is_turned(image));
        MaskError::Size { found, expected: (image.height, image.width), turned }
    }

    fn bad_mask(&self, ann_id: i64, source: MaskError) -> Error {
        Error::Segmentation { path: self.instances_path.clone(), ann_id, source }
    }
}
