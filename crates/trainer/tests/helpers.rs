//! What helps to set up a run: `--fast-dev-run`, `--overfit-batches`, `--init`, averaged weights, early stopping, `lr-find`,
//! `gradients`.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use tch::Tensor;

mod common;
mod data;

use common::{MINIATURE, talent};
use data::data_root;

fn run(run_dir: &Path, options: &[&str], set: &[&str]) -> (bool, String) {
    let mut args = vec!["train", "--device", "cpu", "--threads", "1"];
    args.extend(["--data-root", data_root().to_str().unwrap(), "--run-dir", run_dir.to_str().unwrap()]);
    args.extend(options);
    args.push("--set");
    args.extend(MINIATURE);
    args.extend(set);
    let output = talent(&args);
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[track_caller]
fn train(run_dir: &Path, options: &[&str], set: &[&str]) -> String {
    let (success, said) = run(run_dir, options, set);
    assert!(success, "{said}");
    said
}

fn metrics(run: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(run.join("metrics.json")).unwrap()).unwrap()
}

fn tensors(run: &Path, name: &str) -> BTreeMap<String, Tensor> {
    Tensor::read_safetensors(run.join("checkpoints").join(name)).unwrap().into_iter().collect()
}

/// Records without their times.
fn records(run: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("records.jsonl")).unwrap();
    let strip = |line: &str| {
        let mut record: Value = serde_json::from_str(line).unwrap();
        record.as_object_mut().unwrap().remove("runtime");
        record
    };
    text.lines().map(strip).collect()
}

#[test]
fn a_fast_run_does_a_step_of_everything() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    train(&run, &["--fast-dev-run"], &["eval.batch_size=2"]);
    let found = metrics(&run);
    assert_eq!(found["step"], 1);
    for split in ["val", "testA", "testB"] {
        assert_eq!(found["splits"][split]["n_expressions"], 2, "{found}");
    }
    for name in ["overlays.png", "curves.png", "curves.svg", "predictions.jsonl"] {
        assert!(run.join(name).exists(), "{name}");
    }
    let page = std::fs::read_to_string(run.join("report.html")).unwrap();
    for part in
        ["<svg", "alt=\"Best predictions\"", "alt=\"Worst predictions\"", "identity", "testB, by group"]
    {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("http://") && !page.contains("https://"));
}

#[test]
fn overfitting_trains_and_evaluates_on_the_same_refs() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    train(
        &run,
        &["--overfit-batches", "1"],
        &["train.epochs=30", "train.lr=0.01", "eval.every_epochs=30", "train.batch_size=2"],
    );
    let found = metrics(&run);
    let splits: Vec<&String> = found["splits"].as_object().unwrap().keys().collect();
    assert!(splits.iter().all(|name| name.starts_with("overfitted batches")), "{splits:?}");
    let lines = std::fs::read_to_string(run.join("expressions.jsonl")).unwrap();
    let refs: std::collections::BTreeSet<i64> = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["ref_id"].as_i64().unwrap())
        .collect();
    assert_eq!(refs.len(), 2);
    let losses: Vec<f64> =
        records(&run).iter().filter_map(|record| record["loss"]["total"].as_f64()).collect();
    let mean = |some: &[f64]| some.iter().sum::<f64>() / some.len() as f64;
    let n = losses.len() / 4;
    assert!(mean(&losses[losses.len() - n..]) < 0.8 * mean(&losses[..n]), "{losses:?}");
}

#[test]
fn a_run_starts_from_the_weights_of_another() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    train(&first, &["--max-steps", "2"], &[]);
    let last = first.join("checkpoints/last.safetensors");
    let init = ["--init", last.to_str().unwrap(), "--max-steps", "1"];
    train(&second, &init, &["train.lr=0.0", "train.lr_encoders=0.0"]);
    let (before, after) = (tensors(&first, "last.safetensors"), tensors(&second, "last.safetensors"));
    let is_weight = |name: &&String| !name.contains("running_") && !name.contains("num_batches");
    for name in before.keys().filter(is_weight) {
        assert!(before[name].equal(&after[name]), "{name}");
    }
    let (success, said) = run(&folder.path().join("third"), &init, &["model.decoder.ffn_width=32"]);
    assert!(!success && said.contains("--init"), "{said}");
    let (success, said) = run(&folder.path().join("fourth"), &["--init", "absent.safetensors"], &[]);
    assert!(!success && said.contains("absent.safetensors"), "{said}");
}

#[test]
fn averaged_weights_are_saved_and_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let set = ["train.ema=0.6", "train.epochs=3"];
    train(&path("whole"), &[], &set);
    train(&path("parts"), &["--max-steps", "3"], &set);
    train(&path("parts"), &["--resume", "auto"], &set);
    train(&path("plain"), &[], &["train.epochs=3"]);
    let whole = tensors(&path("whole"), "last.safetensors");
    for (name, tensor) in tensors(&path("parts"), "last.safetensors") {
        assert!(tensor.equal(&whole[&name]), "{name}");
    }
    // The steps are those of a run without the average; the model that is saved is another.
    let steps = |run: &str| -> Vec<Value> {
        records(&path(run)).into_iter().filter(|record| record["loss"].is_object()).collect()
    };
    assert_eq!(steps("whole"), steps("plain"));
    let plain = tensors(&path("plain"), "last.safetensors");
    assert!(plain.iter().any(|(name, tensor)| !tensor.equal(&whole[name])));
}

#[test]
fn a_run_stops_early() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    // Without a learning rate nothing becomes better after the first evaluation.
    let set = ["train.patience=2", "train.epochs=20", "train.lr=0.0", "train.lr_encoders=0.0"];
    let said = train(&run, &[], &set);
    assert!(said.contains("stopped early"), "{said}");
    let evaluations = records(&run).iter().filter(|record| record["split"] == "val").count();
    assert!((3..=8).contains(&evaluations), "{evaluations}");
    // A run that stopped early is finished.
    assert!(train(&run, &["--resume", "auto"], &set).contains("this run is finished"));
}

#[test]
fn a_learning_rate_is_searched() {
    let folder = tempfile::tempdir().unwrap();
    let plot = folder.path().join("lr.png");
    let mut args = vec!["lr-find", "--device", "cpu", "--threads", "1", "--steps", "30", "--json"];
    args.extend(["--data-root", data_root().to_str().unwrap(), "--out", plot.to_str().unwrap(), "--set"]);
    args.extend(MINIATURE);
    let output = talent(&args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let points = found["points"].as_array().unwrap();
    let rates: Vec<f64> = points.iter().map(|point| point["lr"].as_f64().unwrap()).collect();
    assert!(rates.len() > 10 && rates.windows(2).all(|pair| pair[0] < pair[1]), "{rates:?}");
    assert!(plot.exists());
}

#[test]
fn gradients_are_measured_by_term_and_group() {
    let measure = |set: &[&str]| -> Value {
        let mut args = vec!["gradients", "--device", "cpu", "--threads", "1", "--batches", "2", "--json"];
        args.extend(["--data-root", data_root().to_str().unwrap(), "--regime", "pet", "--set"]);
        args.extend(MINIATURE);
        args.extend(set);
        let output = talent(&args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let term = |found: &Value, name: &str| -> Value {
        found["terms"].as_array().unwrap().iter().find(|term| term["term"] == name).unwrap()["norms"].clone()
    };
    let norm = |norms: &Value, group: &str| norms[group].as_f64().unwrap();
    let once = measure(&["loss.instance_adapters=0.5"]);
    let twice = measure(&["loss.instance_adapters=1.0"]);
    let [one, two] = [&once, &twice].map(|found| term(found, "instance_adapters"));
    let ratio = norm(&two, "visual_adapters") / norm(&one, "visual_adapters");
    assert!((ratio - 2.0).abs() < 1e-3, "{ratio}");
    // It looks at the adapters alone, while the segmentation loss sees all.
    assert_eq!(norm(&one, "projector"), 0.0);
    assert!(norm(&term(&once, "seg"), "projector") > 0.0);
    assert_eq!(term(&once, "seg"), term(&twice, "seg"));
}
