//! A small generated data set for tests of the `talent` program.

use std::path::Path;
use std::sync::OnceLock;

use refcoco::refshapes::{Settings, generate};

/// A data root shared by all tests of this file.
pub(crate) fn data_root() -> &'static Path {
    static ROOT: OnceLock<tempfile::TempDir> = OnceLock::new();
    ROOT.get_or_init(|| {
        let root = tempfile::tempdir().unwrap();
        let settings = Settings {
            train_images: 12,
            val_images: 3,
            test_a_images: 2,
            test_b_images: 2,
            ..Settings::default()
        };
        generate(&settings, root.path(), |_| {}).unwrap();
        root
    })
    .path()
}
