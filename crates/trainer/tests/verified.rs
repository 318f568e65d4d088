//! What `data verify` passes can be trained on and evaluated: two steps on every fixture of the tree, and on generated odd sets.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use image::{GrayImage, Luma, RgbImage};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use refcoco::{Dataset, Descriptor, Verification, verify};
use serde_json::{Value, json};

mod common;

use common::{MINIATURE, talent};

/// Trains two steps and evaluates every split. Panics if a command fails.
fn train_and_evaluate(name: &str, root: &Path, label: &str) {
    let folder = tempfile::tempdir().unwrap();
    let (run, root_text) = (folder.path().join("run"), root.to_str().unwrap());
    if !Dataset::open(name, root).unwrap().splits().contains(&"train") {
        // A set for evaluation alone.
        return evaluate(name, root, label, None);
    }
    let mut args =
        vec!["train", "--device", "cpu", "--threads", "1", "--data-root", root_text, "--dataset", name];
    args.extend(["--run-dir", run.to_str().unwrap(), "--max-steps", "2", "--set"]);
    args.extend(MINIATURE);
    let output = talent(&args);
    assert!(output.status.success(), "{label}: train: {}", String::from_utf8_lossy(&output.stderr));
    evaluate(name, root, label, Some(&run));
}

/// Evaluates with the model of a run, or of one trained on the published fixture of RRSIS-D.
fn evaluate(name: &str, root: &Path, label: &str, run: Option<&Path>) {
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("run");
    let run = run.unwrap_or_else(|| {
        let published = published();
        let mut args =
            vec!["train", "--device", "cpu", "--threads", "1", "--dataset", "rrsisd", "--data-root"];
        args.extend([
            published.to_str().unwrap(),
            "--run-dir",
            own.to_str().unwrap(),
            "--max-steps",
            "1",
            "--set",
        ]);
        args.extend(MINIATURE);
        assert!(talent(&args).status.success());
        &own
    });
    let splits = Dataset::open(name, root).unwrap().splits().join(",");
    let args = [
        "eval",
        "--device",
        "cpu",
        "--threads",
        "1",
        "--run",
        run.to_str().unwrap(),
        "--dataset",
        name,
        "--data-root",
        root.to_str().unwrap(),
        "--split",
        &splits,
        "--exchange",
        "--json",
    ];
    let output = talent(&args);
    assert!(output.status.success(), "{label}: eval: {}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["splits"].as_object().is_some_and(|splits| !splits.is_empty()), "{label}: {report}");
}

fn errors_of(name: &str, root: &Path) -> usize {
    let descriptor = Descriptor::find(name, root).unwrap();
    match verify(descriptor, root, |_, _| {}) {
        Ok(Verification { errors, .. }) => errors.len(),
        Err(_) => 1,
    }
}

fn published() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../refcoco/tests/golden/published")
}

#[test]
fn every_fixture_of_the_tree() {
    for name in ["rrsisd", "refsegrs", "arefcoco", "reasonseg", "d3"] {
        assert_eq!(errors_of(name, &published()), 0, "{name}");
        train_and_evaluate(name, &published(), name);
    }
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets");
    assert_eq!(errors_of("example", &example), 0);
    train_and_evaluate("example", &example, "example");
}

/// Something odd about a line, as its key and value, which may or may not be an error.
fn oddity(rng: &mut StdRng, id: usize) -> (&'static str, Value) {
    match rng.random_range(0..14) {
        0 => ("mask", Value::Null),
        1 => ("mask", json!([])),
        2 => ("mask", json!([[]])),
        3 => ("mask", json!([1, 1, 9, 1, 9, 9])),
        4 => ("mask", json!([[[1, 1], [9, 1], [9, 9]]])),
        5 => ("mask", json!({"size": [12, 16], "counts": [192]})),
        6 => (
            "mask",
            json!([{"size": [12, 16], "counts": [0, 192]}, {"size": [12.0, 16.0], "counts": [100, 92]}]),
        ),
        7 => ("mask", json!([-50, -50, 400, -50, 400, 400])),
        8 => ("mask", json!("m.png")),
        9 => ("expressions", json!([])),
        10 => ("expressions", json!(["a ".repeat(60), "杯子 🥤", "x"])),
        11 => ("expressions", json!([""])),
        12 => ("ref_id", json!(-(id as i64) - 1)),
        _ => ("split", json!(["val", "train", "test", "elsewhere"][id % 4])),
    }
}

/// Own data of a few lines, some of them odd.
fn odd_set(seed: u64, folder: &Path) {
    let mut rng = StdRng::seed_from_u64(seed);
    std::fs::create_dir_all(folder).unwrap();
    for (index, name) in ["a.png", "./b.png", "c.png", "d.png"].into_iter().enumerate() {
        RgbImage::from_pixel(16, 12, image::Rgb([40 * index as u8, 90, 60])).save(folder.join(name)).unwrap();
    }
    GrayImage::from_fn(16, 12, |x, _| Luma([if x < 5 { 255 } else { 0 }]))
        .save(folder.join("m.png"))
        .unwrap();
    let mut text = String::new();
    for id in 0..10 {
        // Each picture belongs to one split, so that none is shared.
        let (image, split) =
            [("a.png", "train"), ("./b.png", "val"), ("c.png", "train"), ("d.png", "test")][id % 4];
        let mut line = json!({
            "image": image, "mask": [[1, 1, 8, 1, 8, 8, 1, 8]], "expressions": ["a cup", "left one"], "category": "cup", "split": split,
        });
        if rng.random_range(0..3) == 0 {
            let (key, value) = oddity(&mut rng, id);
            line[key] = value;
        }
        writeln!(text, "{line}").unwrap();
    }
    std::fs::write(folder.join("refs.jsonl"), text).unwrap();
}

#[test]
fn every_odd_set_that_verify_passes() {
    let (mut passed, mut refused) = (0, 0);
    for seed in 0..40 {
        let root = tempfile::tempdir().unwrap();
        odd_set(seed, &root.path().join("odd"));
        if errors_of("odd", root.path()) > 0 {
            refused += 1;
        } else if passed < 8 {
            passed += 1;
            train_and_evaluate("odd", root.path(), &format!("seed {seed}"));
        }
    }
    assert!(passed == 8 && refused > 3, "{passed} passed, {refused} refused");
}
