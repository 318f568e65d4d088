//! Training on several expressions of an image, with the losses that compare objects or expressions.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use tch::Tensor;

mod common;
mod data;

use common::{MINIATURE, talent};
use data::data_root;

const LOSSES: [&str; 8] = // Those that allow activation checkpointing.
    [
        "instance",
        "instance_levels",
        "instance_neck",
        "instance_decoder",
        "mass",
        "object_bce",
        "exclusive",
        "pixel_levels",
    ];

/// Trains three steps; returns the tensors of the last checkpoint and the losses of the first step.
#[track_caller]
fn train(folder: &Path, options: &[&str], set: &[&str]) -> (BTreeMap<String, Tensor>, Value) {
    let mut args = vec!["train", "--device", "cpu", "--threads", "1", "--max-steps", "3"];
    args.extend(["--data-root", data_root().to_str().unwrap(), "--run-dir", folder.to_str().unwrap()]);
    args.extend(options);
    args.push("--set");
    args.extend(MINIATURE);
    args.extend(set);
    let output = talent(&args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let records = std::fs::read_to_string(folder.join("records.jsonl")).unwrap();
    let mut lines = records.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let losses = lines.find_map(|record| record.get("loss").cloned()).unwrap();
    let tensors = Tensor::read_safetensors(folder.join("checkpoints/last.safetensors")).unwrap();
    (tensors.into_iter().collect(), losses)
}

fn set() -> Vec<String> {
    let losses = LOSSES.iter().map(|name| format!("loss.{name}=0.5"));
    losses.chain(["data.refs_per_image=3".into(), "data.negatives=same-category".into()]).collect()
}

#[test]
fn every_loss_is_recorded_and_checkpointing_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let set = set();
    let set: Vec<&str> = set.iter().map(String::as_str).collect();
    let (kept, losses) = train(&folder.path().join("kept"), &[], &set);
    for name in LOSSES {
        let value = losses[name].as_f64().unwrap_or_else(|| panic!("{name}: {losses}"));
        assert!(value > 0.0, "{name}: {losses}");
    }
    let (again, _) = train(&folder.path().join("again"), &["--recompute"], &set);
    for (name, tensor) in &kept {
        assert!(tensor.equal(&again[name]), "{name}");
    }
    // Two parts of a batch, each with its own images.
    let parts = [set.as_slice(), &["train.accumulate=2"]].concat();
    let (_, losses) = train(&folder.path().join("parts"), &[], &parts);
    assert!(losses["exclusive"].as_f64().unwrap() > 0.0, "{losses}");
}

#[test]
fn rivals_need_several_expressions_of_an_image() {
    let output = talent(&["train", "--set", "loss.exclusive=1.0"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("data.refs_per_image must be at least 2"), "{said}");
    let apart = ["loss.exclusive=1.0", "data.refs_per_image=2", "train.batch_size=4", "train.accumulate=4"];
    let output = talent(&[&["train", "--set"], &apart[..]].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("at least twice train.accumulate"), "{said}");
}

#[test]
fn gradients_in_half_precision_are_refused() {
    let output = talent(&["gradients", "--preset", "tiny", "--precision", "fp16"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("use fp32 or bf16"), "{said}");
}

#[test]
fn responses_of_adapters_are_trained() {
    let folder = tempfile::tempdir().unwrap();
    let set = ["loss.instance_adapters=0.5"];
    let (_, losses) = train(&folder.path().join("run"), &[], &set);
    assert!(losses["instance_adapters"].as_f64().unwrap() > 0.0, "{losses}");
    let refused = |options: &[&str], set: &[&str]| {
        let run = folder.path().join("refused");
        let mut args = vec!["train", "--device", "cpu", "--data-root", data_root().to_str().unwrap()];
        args.extend(["--run-dir", run.to_str().unwrap()]);
        args.extend(options);
        args.push("--set");
        args.extend(MINIATURE);
        args.extend(set);
        let output = talent(&args);
        assert!(!output.status.success() && !run.exists());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = refused(&["--recompute"], &set);
    assert!(said.contains("without --recompute"), "{said}");
    let said = refused(&[], &["loss.instance_adapters=0.5", "model.image.fusion=none"]);
    assert!(said.contains("model.image.fusion"), "{said}");
}
