use std::path::Path;

use anyhow::Result;
use refcoco::{Dataset, refshapes};

use crate::progress::Progress;

/// Where data sets are looked for unless told otherwise.
pub const DEFAULT_DATA_ROOT: &str = "datasets";

/// Opens a data set. One that is generated, such as RefShapes, is generated first if it is not there.
///
/// # Errors
/// As [`Dataset::open`], and when a generated file cannot be written.
pub fn open(name: &str, data_root: &Path) -> Result<Dataset> {
    ensure_generated(name, data_root)?;
    Ok(Dataset::open(name, data_root)?)
}

/// Generates a data set that can be generated, such as RefShapes, where it is not there.
///
/// # Errors
/// When a file cannot be written.
pub fn ensure_generated(name: &str, data_root: &Path) -> Result<()> {
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
