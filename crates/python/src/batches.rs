//! Training batches.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use numpy::PyArray1;
use pyo3::exceptions::{PyIndexError, PyRuntimeWarning, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::MutexExt;
use pyo3::types::PyDict;
use rayon::ThreadPool;
use refcoco::letterbox::Normalisation;
use refcoco::sampler::{Negatives, draw_expressions, epoch_order};
use refcoco::training_mix::training_mix;
use refcoco::{Batch, Buffers, OnError, Prefetch, RefAt, SampleOptions, SampleShape, load_batch};

use crate::arrays::{array_of, pixel_array};
use crate::dataset::Dataset;
use crate::errors::{data_error, detached, refused};
use crate::threads::{OfProcess, loader_worker, new_pool, shared_pool};
use crate::transforms::{MOST_PIXELS_A_SIDE, check_normalisation, clip};

/// Largest number of threads that can be asked for.
const MOST_THREADS: usize = 1024;

/// Largest size of a batch's pixels in GiB: images and masks in float32.
const MOST_GIB: f64 = 32.0;

/// Largest number of batches that are prepared ahead.
const MOST_PREFETCHED: usize = 64;

/// How long a wait for a batch goes on before signals such as Ctrl-C are looked at.
const PATIENCE: Duration = Duration::from_millis(50);

/// What `Dataset.batches` was called with.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) split: String,
    pub(crate) batch_size: usize,
    pub(crate) input_size: usize,
    pub(crate) word_len: usize,
    pub(crate) seed: u64,
    pub(crate) rank: usize,
    pub(crate) world_size: usize,
    pub(crate) epoch: u64,
    pub(crate) start: usize,
    pub(crate) shuffle: bool,
    pub(crate) drop_last: bool,
    pub(crate) worker: Option<(usize, usize)>,
    pub(crate) threads: Option<usize>,
    pub(crate) prefetch: usize,
    pub(crate) on_error: String,
    pub(crate) negatives: String,
    pub(crate) normalisation: Option<([f32; 3], [f32; 3], [u8; 3])>,
}

/// A word of a setting that is an enum in Rust.
fn choice<T: serde::de::DeserializeOwned>(name: &str, word: &str, known: &str) -> PyResult<T> {
    serde_json::from_value(serde_json::Value::from(word))
        .map_err(|_| PyValueError::new_err(format!("{name} must be {known}, not \"{word}\"")))
}

impl Settings {
    fn check(&self) -> PyResult<()> {
        let at_least_one = [
            ("batch_size", self.batch_size),
            ("input_size", self.input_size),
            ("world_size", self.world_size),
            ("threads", self.threads.unwrap_or(1)),
        ];
        if let Some((name, _)) = at_least_one.iter().find(|(_, value)| *value == 0) {
            return Err(PyValueError::new_err(format!("{name} must be at least 1")));
        }
        if self.input_size > MOST_PIXELS_A_SIDE {
            let what = format!("input_size must be at most {MOST_PIXELS_A_SIDE}, not {}", self.input_size);
            return Err(PyValueError::new_err(what));
        }
        if self.threads.unwrap_or(1) > MOST_THREADS {
            return Err(PyValueError::new_err(format!("threads must be at most {MOST_THREADS}")));
        }
        let gib = 16.0 * self.batch_size as f64 * (self.input_size as f64).powi(2) / f64::from(1 << 30);
        if gib > MOST_GIB {
            let what =
                format!("a batch of batch_size {} takes {gib:.0} GiB, more than {MOST_GIB}", self.batch_size);
            return Err(PyValueError::new_err(what));
        }
        if let Some((mean, std, _)) = self.normalisation {
            check_normalisation(mean, std)?;
        }
        if !(2..=4096).contains(&self.word_len) {
            let what = format!("word_len must be 2 to 4096, not {}", self.word_len);
            return Err(PyValueError::new_err(what));
        }
        if self.rank >= self.world_size {
            let what = format!("rank {} is not below world_size {}", self.rank, self.world_size);
            return Err(PyValueError::new_err(what));
        }
        match self.worker {
            Some((worker, n)) if worker >= n => {
                Err(PyValueError::new_err(format!("worker {worker} is not below the number of workers, {n}")))
            }
            _ => Ok(()),
        }
    }

    fn shape(&self) -> SampleShape {
        let given = self.normalisation.map(|(mean, std, border)| Normalisation { mean, std, border });
        SampleShape {
            input_size: self.input_size,
            word_len: self.word_len,
            pixels: given.unwrap_or(Normalisation::CLIP),
        }
    }

    fn options(&self) -> PyResult<SampleOptions> {
        let on_error: OnError = choice("on_error", &self.on_error, "\"stop\" or \"skip\"")?;
        let known = "\"any-object\" or \"same-category\"";
        let negatives: Negatives = choice("negatives", &self.negatives, known)?;
        Ok(SampleOptions { on_error, negatives, ..SampleOptions::default() })
    }

    /// The refs of this rank's batches. Every `world_size` batches of `batch_size` are one batch of all ranks, in the order of the
    /// trainer; the rank takes its part of each.
    fn plan(&self, dataset: &[refcoco::Dataset]) -> refcoco::Result<Vec<Vec<RefAt>>> {
        let refs = match self.split.as_str() {
            // As for training: without images that an evaluation split has, too.
            "train" => training_mix(dataset, false)?.refs,
            split => {
                let all = dataset[0].split(split)?.into_iter();
                let asked = all.filter(|&index| !dataset[0].refs[index].expressions.is_empty());
                asked.map(|index| RefAt { dataset: 0, index }).collect()
            }
        };
        let order = match self.shuffle {
            true => epoch_order(self.seed, self.epoch, refs.len()),
            false => (0..refs.len()).collect(),
        };
        let batches = order.chunks(self.batch_size.saturating_mul(self.world_size));
        let mine = batches.filter_map(|batch| {
            let is_whole = batch.len() == self.batch_size * self.world_size;
            let part = batch.chunks(self.batch_size).nth(self.rank)?;
            (is_whole || !self.drop_last).then(|| part.iter().map(|&place| refs[place]).collect())
        });
        Ok(mine.collect())
    }
}

/// What preparing a batch needs.
#[derive(Clone)]
struct Loading {
    all: Arc<Vec<refcoco::Dataset>>,
    drawn_by: (u64, u64),
    shape: SampleShape,
    options: SampleOptions,
    buffers: Buffers,
}

/// A batch, and its expressions as texts.
struct Loaded {
    batch: Batch,
    texts: [Vec<String>; 3],
}

impl Loading {
    fn load(&self, refs: &[RefAt]) -> refcoco::Result<Loaded> {
        let batch =
            load_batch(&self.all, &*clip(), refs, self.drawn_by, self.shape, &self.options, &self.buffers)?;
        let dataset = &self.all[0];
        let mut texts = [Vec::new(), Vec::new(), Vec::new()];
        let mut names = batch.refs.iter().peekable();
        for at in refs {
            let reference = &dataset.refs[at.index];
            let name = format!("{}/{}", dataset.descriptor.name, reference.ref_id);
            // Refs that could not be read are not in the batch.
            if names.next_if(|next| **next == name).is_none() {
                continue;
            }
            if let Some(drawn) = draw_expressions(dataset, reference, self.options.negatives, self.drawn_by) {
                let drawn = [drawn.anchor, drawn.positive, drawn.negative.unwrap_or_default()];
                texts.iter_mut().zip(drawn).for_each(|(texts, text)| texts.push(text));
            }
        }
        Ok(Loaded { batch, texts })
    }
}

/// What batches are made from again when they are unpickled.
type Arguments<'py> = (Py<Dataset>, Bound<'py, PyDict>);

/// Batches on their way, and the pool that prepares them.
struct Stream {
    batches: Prefetch<Loaded>,
    /// How far the place moves with each batch.
    stride: usize,
}

/// Training batches of one epoch of a split, in an order that depends on seed and epoch alone.
///
/// An iterator; len() is the number of this rank's batches from `start` on, batches[i] is the i-th of them, and position is the number of
/// batches of the epoch that are done. A batch is a dict: images float32 [n, 3, S, S], masks float32 [n, 1, S, S], words, positive_words and negative_words
/// int64 [n, K], valid float32 [n] (1 where there is a negative), texts, positive_texts, negative_texts, refs ("data set/ref_id"), and
/// bad, the samples that on_error="skip" has left out.
#[pyclass(frozen, weakref, module = "talent_ris")]
pub(crate) struct Batches {
    dataset: Py<Dataset>,
    settings: Settings,
    loading: Loading,
    /// All batches of this rank's epoch.
    plan: Arc<Vec<Vec<RefAt>>>,
    position: AtomicUsize,
    /// Locked while a batch is waited for: threads that share the iterator take turns.
    stream: Mutex<Option<OfProcess<Stream>>>,
}

impl Drop for Batches {
    fn drop(&mut self) {
        let stream = self.stream.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        // The batch on its way is waited for, while other Python threads go on.
        Python::attach(|py| py.detach(move || drop(stream)));
    }
}

impl Batches {
    pub(crate) fn of(dataset: &Bound<'_, Dataset>, settings: Settings) -> PyResult<Self> {
        settings.check()?;
        let py = dataset.py();
        let all = Arc::clone(&dataset.get().all);
        let plan = detached(py, &*shared_pool(py)?, || settings.plan(&all))?.map_err(data_error)?;
        if settings.start > plan.len() {
            let what = format!("start {} is beyond the epoch's {} batches", settings.start, plan.len());
            return Err(PyValueError::new_err(what));
        }
        let loading = Loading {
            all,
            drawn_by: (settings.seed, settings.epoch),
            shape: settings.shape(),
            options: settings.options()?,
            buffers: Buffers::default(),
        };
        Ok(Self {
            dataset: dataset.clone().unbind(),
            position: AtomicUsize::new(settings.start),
            settings,
            loading,
            plan: Arc::new(plan),
            stream: Mutex::default(),
        })
    }

    fn position_now(&self) -> usize {
        self.position.load(Ordering::Relaxed)
    }

    /// Places of the batches from `start` on, of the worker that was asked for.
    fn places(&self) -> impl ExactSizeIterator<Item = usize> {
        let (worker, n) = self.settings.worker.unwrap_or((0, 1));
        (self.settings.start..self.plan.len()).skip(worker).step_by(n)
    }

    /// Waits for the next batch. `Ctrl-C` ends the wait and loses no batch.
    fn wait(&self, py: Python<'_>, stream: &mut Stream) -> PyResult<Option<Loaded>> {
        while !py.detach(|| stream.batches.wait(PATIENCE)) {
            py.check_signals()?;
        }
        let Some(loaded) = stream.batches.next().transpose().map_err(data_error)? else { return Ok(None) };
        self.position.store((self.position_now() + stream.stride).min(self.plan.len()), Ordering::Relaxed);
        Ok(Some(loaded))
    }

    /// The worker that this process is, and its share of the threads.
    fn worker(&self, py: Python<'_>) -> PyResult<((usize, usize), Arc<ThreadPool>)> {
        let of_loader = loader_worker(py)?;
        let worker = self.settings.worker.or(of_loader).unwrap_or((0, 1));
        let pool = match (self.settings.threads, of_loader) {
            (Some(n), _) => new_pool(n)?,
            (None, Some((_, n_workers))) => {
                let cores = std::thread::available_parallelism().map_or(1, usize::from);
                new_pool((cores / n_workers.max(1)).max(1))?
            }
            (None, None) => shared_pool(py)?,
        };
        Ok((worker, pool))
    }

    fn begin(&self, py: Python<'_>) -> PyResult<Stream> {
        let ((worker, n_workers), pool) = self.worker(py)?;
        let jobs: Vec<usize> =
            (self.position_now()..self.plan.len()).skip(worker).step_by(n_workers).collect();
        let (loading, plan) = (self.loading.clone(), Arc::clone(&self.plan));
        let load = move |&place: &usize| pool.install(|| loading.load(&plan[place]));
        let prefetch = self.settings.prefetch.min(MOST_PREFETCHED);
        Ok(Stream { batches: Prefetch::new(jobs, prefetch, load), stride: n_workers })
    }
}

#[pymethods]
impl Batches {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __len__(&self) -> usize {
        self.places().len()
    }

    fn __repr__(&self) -> String {
        let Settings { split, batch_size, epoch, seed, .. } = &self.settings;
        let (position, n) = (self.position_now(), self.plan.len());
        format!(
            "Batches({split:?}, batch_size={batch_size}, seed={seed}, epoch={epoch}): at {position} of {n}"
        )
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let mut held = self.stream.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner);
        if held.as_ref().and_then(OfProcess::get).is_none() {
            *held = Some(OfProcess::new(self.begin(py)?));
        }
        let mut bad = Vec::new();
        while let Some(stream) = held.as_mut().and_then(OfProcess::get_mut) {
            match self.wait(py, stream) {
                Ok(None) => break,
                Ok(Some(mut loaded)) => {
                    bad.append(&mut loaded.batch.bad);
                    if loaded.batch.n > 0 {
                        loaded.batch.bad = bad;
                        return Ok(Some(dict_of(py, loaded)?));
                    }
                }
                Err(error) => {
                    // An interrupted wait goes on with the next call; after an error the batch is tried again.
                    if !error.is_instance_of::<pyo3::exceptions::PyKeyboardInterrupt>(py) {
                        *held = None;
                    }
                    return Err(error);
                }
            }
        }
        if let Some(first) = bad.first() {
            let what =
                format!("the last {} samples cannot be read; {}: {}", bad.len(), first.name, first.error);
            PyErr::warn(py, &py.get_type::<PyRuntimeWarning>(), &std::ffi::CString::new(what)?, 1)?;
        }
        Ok(None)
    }

    fn __getitem__<'py>(&self, py: Python<'py>, index: isize) -> PyResult<Bound<'py, PyDict>> {
        let n = self.places().len() as isize;
        let at = if index < 0 { index + n } else { index };
        let place = usize::try_from(at).ok().and_then(|at| self.places().nth(at));
        let Some(place) = place else {
            return Err(PyIndexError::new_err(format!("batch {index} of {n}")));
        };
        let (_, pool) = self.worker(py)?;
        let (loading, refs) = (&self.loading, &self.plan[place]);
        let loaded = detached(py, &pool, || loading.load(refs))?.map_err(data_error)?;
        match loaded.batch.bad.first() {
            Some(bad) if loaded.batch.n == 0 => {
                Err(refused(format!("no sample of this batch can be read; {}: {}", bad.name, bad.error)))
            }
            _ => dict_of(py, loaded),
        }
    }

    /// Number of batches of this rank's epoch that the iterator has passed. Dataset.batches(..., start=position) goes on there.
    #[getter]
    fn position(&self) -> usize {
        self.position_now()
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Arguments<'py>)> {
        let settings = &self.settings;
        let words = PyDict::new(py);
        words.set_item("split", &settings.split)?;
        words.set_item("batch_size", settings.batch_size)?;
        words.set_item("input_size", settings.input_size)?;
        words.set_item("word_len", settings.word_len)?;
        words.set_item("seed", settings.seed)?;
        words.set_item("rank", settings.rank)?;
        words.set_item("world_size", settings.world_size)?;
        words.set_item("epoch", settings.epoch)?;
        words.set_item("start", self.position_now())?;
        words.set_item("shuffle", settings.shuffle)?;
        words.set_item("drop_last", settings.drop_last)?;
        words.set_item("worker", settings.worker)?;
        words.set_item("threads", settings.threads)?;
        words.set_item("prefetch", settings.prefetch)?;
        words.set_item("on_error", &settings.on_error)?;
        words.set_item("negatives", &settings.negatives)?;
        words.set_item("normalisation", settings.normalisation)?;
        let again = py.import("talent_ris._types")?.getattr("batches_again")?;
        Ok((again, (self.dataset.clone_ref(py), words)))
    }
}

fn dict_of(py: Python<'_>, loaded: Loaded) -> PyResult<Bound<'_, PyDict>> {
    let Loaded { batch, texts: [texts, positive_texts, negative_texts] } = loaded;
    let (n, side, word_len) = (batch.n, batch.shape.input_size, batch.shape.word_len);
    let entries = PyDict::new(py);
    entries.set_item("images", pixel_array(py, batch.images, &[n, 3, side, side])?)?;
    entries.set_item("masks", pixel_array(py, batch.masks, &[n, 1, side, side])?)?;
    for (name, words) in [
        ("words", batch.words),
        ("positive_words", batch.positive_words),
        ("negative_words", batch.negative_words),
    ] {
        entries.set_item(name, array_of(py, words, &[n, word_len])?)?;
    }
    entries.set_item("valid", PyArray1::from_vec(py, batch.valid))?;
    entries.set_item("texts", texts)?;
    entries.set_item("positive_texts", positive_texts)?;
    entries.set_item("negative_texts", negative_texts)?;
    entries.set_item("refs", batch.refs)?;
    let bad: Vec<(String, String)> = batch.bad.into_iter().map(|bad| (bad.name, bad.error)).collect();
    entries.set_item("bad", bad)?;
    Ok(entries)
}
