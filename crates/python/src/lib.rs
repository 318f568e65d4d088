//! The native part of the Python package `talent_ris`; docs/python.md describes the package.
//!
//! - `dataset`: data sets, their images and masks;
//! - `batches`: training batches in a fixed order, prepared by threads of this library;
//! - `transforms`: letterboxing, tokens, and masks as run lengths;
//! - `evaluator`: metrics of predictions;
//! - `commands`: the `data` and `results` commands.
//!
//! Work runs without Python's global interpreter lock, and on threads that are made in the process that uses them (`threads`). Errors
//! become Python exceptions, as do panics (`errors`).

mod arrays;
mod batch_settings;
mod batches;
mod commands;
mod dataset;
mod errors;
mod evaluator;
mod threads;
mod transforms;

use pyo3::prelude::*;

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    // NumPy's functions are looked up now: where they are first needed, a signal such as Ctrl-C could come in between.
    numpy::PyArray1::<f32>::from_vec(module.py(), Vec::new());
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("DataError", module.py().get_type::<errors::DataError>())?;
    module.add_class::<dataset::Dataset>()?;
    module.add_class::<batches::Batches>()?;
    module.add_class::<evaluator::Evaluator>()?;
    transforms::add_to(module)?;
    commands::add_to(module)
}
