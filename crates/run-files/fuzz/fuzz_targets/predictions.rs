//! A file of predicted masks, all of which are decoded.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use refcoco::Dataset;
use refcoco::refshapes::{Settings, generate};
use run_files::Predictions;

/// Two images with refs, and the file that is rewritten for every input.
static SCRATCH: LazyLock<(Dataset, PathBuf)> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let place = if memory.is_dir() { memory } else { std::env::temp_dir() };
    let root = tempfile::tempdir_in(place).expect("a folder").keep();
    let settings =
        Settings { train_images: 1, val_images: 1, test_a_images: 0, test_b_images: 0, ..Settings::default() };
    generate(&settings, &root, |_| {}).expect("a data set");
    (Dataset::open("refshapes", &root).expect("the data set"), root.join("predictions.jsonl"))
});

libfuzzer_sys::fuzz_target!(|text: &[u8]| {
    let (dataset, path) = &*SCRATCH;
    std::fs::write(path, text).expect("a file");
    let Ok(predictions) = Predictions::read(path, dataset) else { return };
    for reference in &dataset.refs {
        for one in &reference.expressions {
            let _ = predictions.mask((reference.ref_id, one.sent_id), 96, 64);
        }
    }
});
