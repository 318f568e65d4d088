//! Threads and `fork`. A child process that was made by `fork` has none of its parent's threads, so that everything that rests on threads
//! belongs to the process that made it.

use std::mem::ManuallyDrop;
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

/// A value that only the process that made it may use and drop. Dropping it in a child would wait for threads that are not there.
#[derive(Debug)]
pub(crate) struct OfProcess<T> {
    process: u32,
    value: ManuallyDrop<T>,
}

impl<T> OfProcess<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { process: std::process::id(), value: ManuallyDrop::new(value) }
    }

    /// `None` in a child process.
    pub(crate) fn get(&self) -> Option<&T> {
        (self.process == std::process::id()).then_some(&*self.value)
    }

    /// `None` in a child process.
    pub(crate) fn get_mut(&mut self) -> Option<&mut T> {
        (self.process == std::process::id()).then_some(&mut *self.value)
    }
}

impl<T> Drop for OfProcess<T> {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        if self.process == std::process::id() {
            // SAFETY: the value is not used again.
            unsafe { ManuallyDrop::drop(&mut self.value) }
        }
    }
}

/// The pool that calls without a number of threads share. The lock is held only by whoever holds the global interpreter lock, as does
/// whoever forks through Python: no child finds it locked by a thread that it does not have.
static SHARED: Mutex<Option<OfProcess<Arc<ThreadPool>>>> = Mutex::new(None);

/// A pool of this process, with one thread per core.
pub(crate) fn shared_pool(_holds_the_lock: Python<'_>) -> PyResult<Arc<ThreadPool>> {
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(pool) = shared.as_ref().and_then(OfProcess::get) {
        return Ok(Arc::clone(pool));
    }
    let pool = new_pool(0)?;
    *shared = Some(OfProcess::new(Arc::clone(&pool)));
    Ok(pool)
}

/// - n_threads: 0 for one per core
pub(crate) fn new_pool(n_threads: usize) -> PyResult<Arc<ThreadPool>> {
    let builder = ThreadPoolBuilder::new().num_threads(n_threads);
    let named = builder.thread_name(|index| format!("talent_ris {index}"));
    named.build().map(Arc::new).map_err(|error| PyRuntimeError::new_err(error.to_string()))
}

/// Number and count of PyTorch's loader worker that this process is, if it is one. PyTorch is not imported for that.
pub(crate) fn loader_worker(py: Python<'_>) -> PyResult<Option<(usize, usize)>> {
    let modules = py.import("sys")?.getattr("modules")?;
    let Ok(data) = modules.get_item("torch.utils.data") else { return Ok(None) };
    let info = data.call_method0("get_worker_info")?;
    match info.is_none() {
        true => Ok(None),
        false => Ok(Some((info.getattr("id")?.extract()?, info.getattr("num_workers")?.extract()?))),
    }
}
