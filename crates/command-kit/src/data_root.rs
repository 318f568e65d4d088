use std::path::Path;

use anyhow::{Result, ensure};
use cli_kit::errln;
use refcoco::{Dataset, Descriptor, refshapes};

use crate::progress::Progress;

/// Default folder of the data sets.
pub const DEFAULT_DATA_ROOT: &str = "datasets";

/// Opens a data set. A data set that can be generated, such as RefShapes, is generated first if it is missing.
///
/// # Errors
/// As [`Dataset::open`], and when a generated file cannot be written.
pub fn open(name: &str, data_root: &Path) -> Result<Dataset> {
    tell_override(name, data_root);
    ensure_generated(name, data_root)?;
    Ok(Dataset::open(name, data_root)?)
}

/// Prints a line if a descriptor of the data root is used in place of a built-in one.
pub fn tell_override(name: &str, data_root: &Path) {
    if let Some(file) = Descriptor::override_of(name, data_root) {
        errln!("{name}: {} is used in place of the built-in descriptor", file.display());
    }
}

/// Generates a data set if it can be generated, such as RefShapes, and is missing.
///
/// # Errors
/// When a file cannot be written, or when the data root does not exist and is not the default one, as after a slip.
pub fn ensure_generated(name: &str, data_root: &Path) -> Result<()> {
    ensure!(
        refshapes::Settings::named(name).is_none()
            || data_root.exists()
            || data_root == Path::new(DEFAULT_DATA_ROOT),
        "{}: there is no such folder; make it first if {name} is to be generated there",
        data_root.display()
    );
    let progress = std::sync::Mutex::new(None);
    Ok(refshapes::ensure(name, data_root, |_, total| {
        if let Ok(mut progress) = progress.lock() {
            progress
                .get_or_insert_with(|| {
                    Progress::new(&format!("generating {name} in {}", data_root.display()), total as u64, 0)
                })
                .advance(1, "");
        }
    })?)
}
