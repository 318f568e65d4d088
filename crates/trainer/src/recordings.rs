//! Recordings of the official code, for tests.

use std::path::{Path, PathBuf};

use talent::Talent;
use tch::{Device, Kind};

/// Folder of the recordings.
pub(crate) fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../parity/tests/golden")
}

/// A checkpoint that the official code wrote.
pub(crate) fn best_model() -> PathBuf {
    golden().join("checkpoints/best_model.pth")
}

/// The miniature network of the recordings.
pub(crate) fn recorded() -> Talent {
    let cfg = parity::recorded_model(&golden()).unwrap();
    Talent::new(&cfg, Device::Cpu, Kind::Float).unwrap()
}
