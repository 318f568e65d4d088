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
use refcoco::sampler::draw_expressions;
use refcoco::{Batch, Buffers, Prefetch, RefAt, SampleOptions, SampleShape, Tokenizer, load_batch};

use crate::arrays::{array_of, pixel_array};
use crate::batch_settings::Settings;
use crate::dataset::Dataset;
use crate::errors::{data_error, detached, detached_on, refused};
use crate::threads::{OfProcess, loader_worker, new_pool, shared_pool};
use crate::transforms::clip;

/// Largest number of batches that are prepared ahead.
const MOST_PREFETCHED: usize = 64;

/// How long a wait for a batch goes on before signals such as Ctrl-C are looked at.
const PATIENCE: Duration = Duration::from_millis(50);

/// What preparing a batch needs.
#[derive(Clone)]
struct Loading {
    all: Arc<Vec<refcoco::Dataset>>,
    tokenizer: Arc<dyn Tokenizer>,
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
        let batch = load_batch(
            &self.all,
            &*self.tokenizer,
            refs,
            self.drawn_by,
            self.shape,
            &self.options,
            &self.buffers,
        )?;
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
    /// Threads of its own, once they are needed.
    pool: Mutex<Option<OfProcess<Arc<ThreadPool>>>>,
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
        let plan = detached(py, || settings.plan(&all))?.map_err(data_error)?;
        if settings.start > plan.len() {
            let what = format!("start {} is beyond the epoch's {} batches", settings.start, plan.len());
            return Err(PyValueError::new_err(what));
        }
        let loading = Loading {
            all,
            drawn_by: (settings.seed, settings.epoch),
            shape: settings.shape()?,
            tokenizer: clip(py),
            options: settings.options()?,
            buffers: Buffers::default(),
        };
        Ok(Self {
            dataset: dataset.clone().unbind(),
            position: AtomicUsize::new(settings.start),
            settings,
            loading,
            plan: Arc::new(plan),
            pool: Mutex::default(),
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

    /// The threads that prepare batches: those that were asked for, or this process's share of the processors.
    fn pool(&self, py: Python<'_>) -> PyResult<Arc<ThreadPool>> {
        let n_threads = match (self.settings.threads, loader_worker(py)?) {
            (Some(n), _) => n,
            (None, Some((_, n_workers))) => {
                let cores = std::thread::available_parallelism().map_or(1, usize::from);
                (cores / n_workers.max(1)).max(1)
            }
            (None, None) => return shared_pool(py),
        };
        let mut held = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = held.as_ref().and_then(OfProcess::get) {
            return Ok(Arc::clone(pool));
        }
        let pool = new_pool(n_threads)?;
        *held = Some(OfProcess::new(Arc::clone(&pool)));
        Ok(pool)
    }

    fn begin(&self, py: Python<'_>) -> PyResult<Stream> {
        let (worker, n_workers) = self.settings.worker.or(loader_worker(py)?).unwrap_or((0, 1));
        let pool = self.pool(py)?;
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
        let pool = self.pool(py)?;
        let (loading, refs) = (&self.loading, &self.plan[place]);
        let loaded = detached_on(py, &pool, || loading.load(refs))?.map_err(data_error)?;
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
