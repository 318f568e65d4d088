//! Errors of this library as Python exceptions.

use std::fmt::Display;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3::create_exception;
use pyo3::exceptions::{PyFileNotFoundError, PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use rayon::ThreadPool;

use crate::threads::shared_pool;

create_exception!(
    talent_ris,
    DataError,
    PyValueError,
    "A data set, a record, or a file of predictions that cannot be used. The message names the file and the record."
);

/// The exception for an error of a data set.
pub(crate) fn data_error(error: refcoco::Error) -> PyErr {
    match &error {
        refcoco::Error::Io { source, .. } if source.kind() == ErrorKind::NotFound => {
            PyFileNotFoundError::new_err(error.to_string())
        }
        refcoco::Error::Io { .. } => PyOSError::new_err(error.to_string()),
        refcoco::Error::Layout { .. } => PyFileNotFoundError::new_err(error.to_string()),
        _ => refused(error),
    }
}

/// A [`DataError`] with the message of an error.
pub(crate) fn refused(error: impl Display) -> PyErr {
    DataError::new_err(error.to_string())
}

/// Runs `work` on the shared pool and without the global interpreter lock. A panic becomes a `RuntimeError`.
pub(crate) fn detached<T: Send>(py: Python<'_>, work: impl FnOnce() -> T + Send) -> PyResult<T> {
    detached_on(py, &*shared_pool(py)?, work)
}

/// As [`detached`], on this pool.
pub(crate) fn detached_on<T: Send>(
    py: Python<'_>,
    pool: &ThreadPool,
    work: impl FnOnce() -> T + Send,
) -> PyResult<T> {
    py.detach(|| catch_unwind(AssertUnwindSafe(|| pool.install(work)))).map_err(|panic| {
        PyRuntimeError::new_err(format!("internal error of talent_ris: {}", command_kit::message(&*panic)))
    })
}
