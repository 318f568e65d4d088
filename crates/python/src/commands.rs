//! The commands `talent-data` and `talent-results`.

use std::ffi::OsString;

use command_kit::{as_errors, succeeds};
use pyo3::prelude::*;

/// Runs a `data` command; returns its exit status.
#[pyfunction]
fn data_command(py: Python<'_>, args: Vec<OsString>) -> i32 {
    py.detach(|| i32::from(!succeeds(as_errors(|| data_cli::run(&args)))))
}

/// Runs the `results` command; returns its exit status.
#[pyfunction]
fn results_command(py: Python<'_>, args: Vec<OsString>) -> i32 {
    py.detach(|| i32::from(!succeeds(as_errors(|| results::run(&args)))))
}

pub(crate) fn add_to(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(data_command, module)?)?;
    module.add_function(wrap_pyfunction!(results_command, module)?)
}
