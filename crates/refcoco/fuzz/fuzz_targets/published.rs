#![no_main]
//! RefSegRS, ReasonSeg, aRefCOCO and D-cube: the first byte chooses the file that the rest of the input is.

use std::path::PathBuf;
use std::sync::OnceLock;

/// A copy of the fixtures, in memory where `/dev/shm` exists.
fn root() -> &'static PathBuf {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let memory = PathBuf::from("/dev/shm");
        let folder = if memory.is_dir() { memory } else { std::env::temp_dir() };
        let root = folder.join(format!("refcoco-fuzz-published-{}", std::process::id()));
        let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/published");
        let copied = std::process::Command::new("cp").arg("-r").arg(fixtures).arg(&root).status();
        assert!(copied.expect("cp runs").success());
        root
    })
}

const FILES: [(&str, &str); 7] = [
    ("refsegrs", "RefSegRS/output_phrase_train.txt"),
    ("reasonseg", "reason_seg/ReasonSeg/val/2_b.json"),
    ("arefcoco", "arefcoco/arefcoco.json"),
    ("d3", "d3/d3_pkl/sentences.pkl"),
    ("d3", "d3/d3_pkl/annotations.pkl"),
    ("d3", "d3/d3_pkl/images.pkl"),
    ("d3", "d3/d3_pkl/groups.pkl"),
];

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let [which, content @ ..] = data else { return };
    let (name, file) = FILES[usize::from(*which) % FILES.len()];
    let path = root().join(file);
    let whole = std::fs::read(&path).expect("the fixture is there");
    std::fs::write(&path, content).expect("the fixture can be replaced");
    if let Ok(dataset) = refcoco::Dataset::open(name, root()) {
        for reference in &dataset.refs {
            let _ = (dataset.target(reference), dataset.ignored(reference), dataset.distractor_masks(reference));
        }
    }
    std::fs::write(&path, whole).expect("the fixture can be replaced");
});
