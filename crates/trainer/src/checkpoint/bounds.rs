//! Checks that a checkpoint's config is no larger than the tensors that are stored.

use std::path::Path;

use anyhow::{Result, ensure};
use talent::least_parameters;
use weight_files::WeightFile;

use super::{EncoderFile, Meta};

/// Minimum size of a value in an encoder's file, in bytes.
const LEAST_BYTES: f64 = 1.0;

/// Returns an error if the config's network has more values than the checkpoint holds, or than the encoders' files can hold.
pub(super) fn ensure_file_holds(meta: &Meta, file: &WeightFile) -> Result<()> {
    let least = least_parameters(&meta.config.model);
    let mut own = least.rest;
    for (part, encoder) in [(least.image, &meta.encoders.image), (least.text, &meta.encoders.text)] {
        match encoder {
            None => own += part,
            // A missing file is reported later, by name.
            Some(EncoderFile { path, .. }) => {
                if let Some(bytes) = size_of(Path::new(path)) {
                    ensure!(
                        part * LEAST_BYTES <= bytes,
                        "{}: its config is of an encoder of {part:.0} values at least, and {path} has {bytes:.0} bytes",
                        file.path().display()
                    );
                }
            }
        }
    }
    let held: f64 =
        file.tensors().map(|(_, info)| info.shape.iter().map(|&n| n as f64).product::<f64>()).sum();
    ensure!(
        own <= held,
        "{}: its config is of a network of {own:.0} values at least, and it holds {held:.0}",
        file.path().display()
    );
    Ok(())
}

/// Bytes of a file, or of all files in a folder.
fn size_of(path: &Path) -> Option<f64> {
    let found = std::fs::metadata(path).ok()?;
    if !found.is_dir() {
        return Some(found.len() as f64);
    }
    let entries = std::fs::read_dir(path).ok()?.flatten();
    Some(
        entries
            .filter_map(|entry| std::fs::metadata(entry.path()).ok())
            .map(|found| found.len() as f64)
            .sum(),
    )
}
