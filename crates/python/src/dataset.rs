//! Data sets.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use numpy::PyArrayDyn;
use pyo3::exceptions::{PyFileNotFoundError, PyKeyError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use refcoco::Mask;

use crate::arrays::{array_of, mask_array};
use crate::batch_settings::Settings;
use crate::batches::Batches;
use crate::errors::{data_error, detached, refused};
use crate::transforms::GivenNormalisation;

/// A data set of referring image segmentation: RefCOCO, RefCOCO+, RefCOCOg, gRefCOCO and others in their original files, or own data.
///
/// name: such as "refcoco"; `talent-data list` shows all. data_root: the folder of the data sets, "datasets" by default.
/// Raises FileNotFoundError where files are missing, and DataError, with file and record, where they cannot be used.
#[pyclass(frozen, weakref, module = "talent_ris")]
pub(crate) struct Dataset {
    name: String,
    data_root: PathBuf,
    /// One data set, in the form that batches take.
    pub(crate) all: Arc<Vec<refcoco::Dataset>>,
    /// Places of the refs by id.
    places: BTreeMap<i64, usize>,
}

impl Dataset {
    pub(crate) fn inner(&self) -> &refcoco::Dataset {
        &self.all[0]
    }

    fn reference(&self, ref_id: i64) -> PyResult<&refcoco::Ref> {
        match self.places.get(&ref_id) {
            Some(&place) => Ok(&self.inner().refs[place]),
            None => Err(PyKeyError::new_err(format!("{} has no ref {ref_id}", self.name))),
        }
    }

    fn python_ref<'py>(&self, class: &Bound<'py, PyAny>, one: &refcoco::Ref) -> PyResult<Bound<'py, PyAny>> {
        let names = &self.inner().instances.categories;
        let categories: Vec<String> =
            one.category_ids.iter().map(|id| names.get(id).cloned().unwrap_or_default()).collect();
        let py = class.py();
        let sent_ids = PyTuple::new(py, one.expressions.iter().map(|each| each.sent_id))?;
        let texts = PyTuple::new(py, one.expressions.iter().map(|each| each.sent.as_str()))?;
        class.call1((
            one.ref_id,
            one.image_id,
            &one.split,
            PyTuple::new(py, &one.ann_ids)?,
            PyTuple::new(py, &one.category_ids)?,
            PyTuple::new(py, categories)?,
            sent_ids,
            texts,
        ))
    }
}

#[pymethods]
impl Dataset {
    #[new]
    #[pyo3(signature = (name, data_root = None))]
    fn new(py: Python<'_>, name: String, data_root: Option<PathBuf>) -> PyResult<Self> {
        let data_root = data_root.unwrap_or_else(|| command_kit::DEFAULT_DATA_ROOT.into());
        // RefShapes would be generated there.
        if !data_root.is_dir() {
            let what = format!("data_root {}: there is no such folder", data_root.display());
            return Err(PyFileNotFoundError::new_err(what));
        }
        let opened = detached(py, || {
            refcoco::check_memory_rule()?;
            command_kit::open(&name, &data_root)
        })?;
        let dataset = opened.map_err(|error| match error.downcast::<refcoco::Error>() {
            Ok(error) => data_error(error),
            Err(other) => refused(command_kit::one_line(&other)),
        })?;
        let places = dataset.refs.iter().map(|one| one.ref_id).zip(0..).collect();
        Ok(Self { name, data_root, all: Arc::new(vec![dataset]), places })
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, (String, PathBuf))> {
        let class = py.get_type::<Self>().into_any();
        Ok((class, (self.name.clone(), self.data_root.clone())))
    }

    fn __repr__(&self) -> String {
        format!("Dataset({:?}, {:?}): {} refs", self.name, self.data_root, self.inner().refs.len())
    }

    /// Number of refs.
    fn __len__(&self) -> usize {
        self.inner().refs.len()
    }

    /// Name of the data set.
    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    /// Names of the splits, in the order of their first ref.
    #[getter]
    fn splits(&self) -> Vec<&str> {
        self.inner().splits()
    }

    /// Refs of a split, or all, in the order of the file.
    #[pyo3(signature = (split = None))]
    fn refs<'py>(&self, py: Python<'py>, split: Option<&str>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let class = py.import("talent_ris._types")?.getattr("Ref")?;
        let places = match split {
            Some(split) => self.inner().split(split).map_err(data_error)?,
            None => (0..self.inner().refs.len()).collect(),
        };
        places.into_iter().map(|place| self.python_ref(&class, &self.inner().refs[place])).collect()
    }

    /// An image as uint8 [height, width, 3], RGB.
    fn image<'py>(&self, py: Python<'py>, image_id: i64) -> PyResult<Bound<'py, PyArrayDyn<u8>>> {
        if !self.inner().instances.images.contains_key(&image_id) {
            return Err(PyKeyError::new_err(format!("{} has no image {image_id}", self.name)));
        }
        let image = detached(py, || self.inner().image(image_id))?.map_err(data_error)?;
        array_of(py, image.data, &[image.height, image.width, 3])
    }

    /// The target of a ref as bool [height, width] in the pixels of its image: the union of its objects.
    fn mask<'py>(&self, py: Python<'py>, ref_id: i64) -> PyResult<Bound<'py, PyAny>> {
        let reference = self.reference(ref_id)?;
        let Mask { width, height, data } =
            detached(py, || self.inner().target(reference))?.map_err(data_error)?;
        mask_array(py, data, &[height, width])
    }

    /// The distractors of a ref as bool [n, height, width]: the other objects of its target's category in its image, without crowds.
    fn distractors<'py>(&self, py: Python<'py>, ref_id: i64) -> PyResult<Bound<'py, PyAny>> {
        let reference = self.reference(ref_id)?;
        let image = self.inner().image_record(reference.image_id).map_err(data_error)?;
        let masks = detached(py, || self.inner().distractor_masks(reference))?.map_err(data_error)?;
        let n = masks.len();
        let data: Vec<u8> = masks.into_iter().flat_map(|mask| mask.data).collect();
        mask_array(py, data, &[n, image.height, image.width])
    }

    /// Training batches of a split in a fixed order; see Batches.
    #[pyo3(signature = (split = "train", batch_size = 8, input_size = 448, word_len = None, seed = 0, rank = 0, world_size = 1, *,
        epoch = 0, start = 0, shuffle = true, drop_last = true, worker = None, threads = None, prefetch = 2, on_error = "stop",
        negatives = "any-object", normalisation = None))]
    #[allow(clippy::too_many_arguments)]
    fn batches(
        slf: &Bound<'_, Self>,
        split: &str,
        batch_size: usize,
        input_size: usize,
        word_len: Option<usize>,
        seed: u64,
        rank: usize,
        world_size: usize,
        epoch: u64,
        start: usize,
        shuffle: bool,
        drop_last: bool,
        worker: Option<(usize, usize)>,
        threads: Option<usize>,
        prefetch: usize,
        on_error: &str,
        negatives: &str,
        normalisation: Option<GivenNormalisation>,
    ) -> PyResult<Batches> {
        let settings = Settings {
            split: split.to_owned(),
            batch_size,
            input_size,
            word_len: word_len.unwrap_or(slf.get().inner().descriptor.word_len),
            seed,
            rank,
            world_size,
            epoch,
            start,
            shuffle,
            drop_last,
            worker,
            threads,
            prefetch,
            on_error: on_error.to_owned(),
            negatives: negatives.to_owned(),
            normalisation,
        };
        Batches::of(slf, settings)
    }
}
