//! Whole runs of a miniature model on a small RefShapes, through the `talent` program.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use refcoco::refshapes::{Settings, generate};
use serde_json::Value;

mod common;
mod data;

use common::{MINIATURE, talent};
use data::data_root;

#[track_caller]
fn train_in(data_root: &Path, run_dir: &Path, extra: &[&str]) -> Output {
    let mut args =
        vec!["train", "--device", "cpu", "--threads", "1", "--data-root", data_root.to_str().unwrap()];
    args.extend(["--run-dir", run_dir.to_str().unwrap(), "--set"]);
    args.extend(MINIATURE);
    args.extend(extra);
    talent(&args)
}

#[track_caller]
fn train(run_dir: &Path, extra: &[&str]) -> Output {
    let output = train_in(data_root(), run_dir, extra);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn records(run_dir: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(run_dir.join("records.jsonl")).unwrap();
    let without_runtime = |line: &str| {
        let mut record: Value = serde_json::from_str(line).unwrap();
        record.as_object_mut().unwrap().remove("runtime").unwrap();
        record
    };
    text.lines().map(without_runtime).collect()
}

fn tensors(file: PathBuf) -> BTreeMap<String, Vec<u8>> {
    let bytes = std::fs::read(file).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    file.tensors().into_iter().map(|(name, view)| (name, view.data().to_vec())).collect()
}

fn json(path: PathBuf) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn a_run_leaves_everything_it_promises() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let output = train(&run, &["--max-steps", "3", "--seed", "4"]);
    let table = String::from_utf8(output.stdout).unwrap();
    for part in ["mIoU", "oIoU", "Pr@90", "val", "testA", "testB", "expression exchanged"] {
        assert!(table.contains(part), "{table}");
    }
    for name in
        ["config.toml", "environment.json", "curves.png", "overlays.png", "metrics.json", "expressions.jsonl"]
    {
        assert!(std::fs::metadata(run.join(name)).unwrap().len() > 0, "{name}");
    }
    for name in ["last", "best", "step-00000003.state"] {
        assert!(run.join(format!("checkpoints/{name}.safetensors")).is_file(), "{name}");
    }
    let events = std::fs::read_dir(&run).unwrap().filter(|entry| {
        entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("events.out.tfevents.")
    });
    assert_eq!(events.count(), 1);
    let environment = json(run.join("environment.json"));
    assert_eq!(
        (environment["matmul_dtype"].as_str(), environment["seed"].as_i64()),
        (Some("Float"), Some(4))
    );
    let steps: Vec<Value> = records(&run).into_iter().filter(|record| record["kind"] == "step").collect();
    assert_eq!(steps.len(), 3);
    for term in ["seg", "cpcl", "tccl", "total"] {
        assert!(steps[0]["loss"][term].as_f64().unwrap().is_finite());
    }
}

#[test]
fn a_finished_run_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    train(&run, &["--max-steps", "2"]);
    let again = train_in(data_root(), &run, &["--max-steps", "2"]);
    assert!(
        !again.status.success() && String::from_utf8_lossy(&again.stderr).contains("already holds a run")
    );
    let before = std::fs::read_to_string(run.join("records.jsonl")).unwrap();
    let finished = train(&run, &["--max-steps", "2", "--resume", "auto"]);
    assert!(String::from_utf8_lossy(&finished.stderr).contains("is finished"));
    assert_eq!(std::fs::read_to_string(run.join("records.jsonl")).unwrap(), before);

    // An unfinished one cannot end before where it is.
    std::fs::remove_file(run.join("metrics.json")).unwrap();
    let earlier = train_in(data_root(), &run, &["--max-steps", "1", "--resume", "auto"]);
    let log = String::from_utf8_lossy(&earlier.stderr).into_owned();
    assert!(
        !earlier.status.success() && log.contains("--max-steps 1: ") && log.contains("at step 2"),
        "{log}"
    );
    assert_eq!(std::fs::read_to_string(run.join("records.jsonl")).unwrap(), before);
}

#[test]
fn evaluations_repeat_the_run_and_score_its_predictions_alike() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    train(&run, &["--max-steps", "3", "--seed", "4"]);
    let (run_path, root) = (run.to_str().unwrap(), data_root().to_str().unwrap());
    // The same number of threads as the run: the last digits of sums over probabilities depend on it.
    let of_run = ["eval", "--run", run_path, "--threads", "1", "--data-root", root];
    let report = |output: &std::process::Output| -> Value { serde_json::from_slice(&output.stdout).unwrap() };
    let own = report(&talent(&[&of_run[..], &["--split", "val,testB", "--json"]].concat()));
    assert_eq!(own["splits"]["val"], json(run.join("metrics.json"))["splits"]["val"]);
    assert!(own["splits"]["testB"]["n_expressions"].as_u64().unwrap() > 0);

    // Predicted masks get the same scores as the model: those that the run saved, and those of an evaluation.
    let saved = run.join("saved.jsonl");
    let saved_path = saved.to_str().unwrap();
    talent(&[&of_run[..], &["--save-predictions", saved_path]].concat());
    assert_eq!(std::fs::read(&saved).unwrap(), std::fs::read(run.join("predictions.jsonl")).unwrap());
    let of_file =
        ["eval", "--predictions", saved_path, "--dataset", "refshapes", "--json", "--data-root", root];
    let scored = report(&talent(&of_file));
    for key in ["mIoU", "oIoU", "identity_error", "n_expressions"] {
        assert_eq!(scored["splits"]["val"][key], own["splits"]["val"][key], "{key}");
    }
}

#[test]
fn one_seed_fixes_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b, other] = ["a", "b", "other"].map(|name| folder.path().join(name));
    train(&a, &["--max-steps", "4"]);
    // Activation checkpointing changes nothing either.
    train(&b, &["--max-steps", "4", "--recompute"]);
    train(&other, &["--max-steps", "4", "--seed", "1"]);
    assert_eq!(records(&a), records(&b));
    assert_ne!(records(&a), records(&other));
    for name in ["last.safetensors", "best.safetensors", "step-00000004.state.safetensors"] {
        let bytes = |run: &Path| std::fs::read(run.join("checkpoints").join(name)).unwrap();
        assert!(bytes(&a) == bytes(&b), "{name} differs");
    }
}

#[test]
fn a_resumed_run_continues_as_if_uninterrupted() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, parts] = ["whole", "parts"].map(|name| folder.path().join(name));
    // At most nine steps per epoch: the second part begins inside an epoch.
    train(&whole, &["--max-steps", "5"]);
    train(&parts, &["--max-steps", "2", "--resume", "auto"]);
    train(&parts, &["--max-steps", "5", "--resume", "auto"]);
    let last = |run: &Path| tensors(run.join("checkpoints/step-00000005.state.safetensors"));
    assert_eq!(last(&whole), last(&parts));
    let steps =
        |run: &Path| records(run).into_iter().filter(|record| record["kind"] == "step").collect::<Vec<_>>();
    assert_eq!(steps(&whole), steps(&parts));

    let changed =
        train_in(data_root(), &parts, &["--max-steps", "9", "--resume", "auto", "--set", "train.lr=0.5"]);
    let message = String::from_utf8_lossy(&changed.stderr);
    assert!(message.contains("train.lr: 0.001 -> 0.5") && message.contains("--allow-config-change"));
    let allowed = ["--max-steps", "6", "--resume", "auto", "--allow-config-change", "--set", "train.lr=0.5"];
    assert!(String::from_utf8_lossy(&train(&parts, &allowed).stderr).contains("train.lr: 0.001 -> 0.5"));
    assert!(steps(&parts)[5]["lr"].as_f64().unwrap() > 0.1);

    // On another kind of processor the last digits are others.
    let environment = parts.join("environment.json");
    let mut before: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&environment).unwrap()).unwrap();
    before["cpu"] = "an abacus".into();
    before["init"] = "old/best.safetensors".into();
    std::fs::write(&environment, before.to_string()).unwrap();
    let output = train(&parts, &["--max-steps", "7", "--resume", "auto", "--set", "train.lr=0.5"]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("note: cpu was an abacus, and is "), "{message}");
    assert!(!message.contains("libtorch was"), "{message}");
    let after: serde_json::Value = serde_json::from_slice(&std::fs::read(&environment).unwrap()).unwrap();
    assert_eq!(after["init"], "old/best.safetensors");
    assert_ne!(after["cpu"], "an abacus");

    // Other training data are refused; those of the run are found again without naming them.
    let elsewhere = tempfile::tempdir().unwrap();
    let refuse = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_talent"))
            .current_dir(elsewhere.path())
            .args(["train", "--resume", parts.to_str().unwrap(), "--device", "cpu", "--threads", "1"])
            .args(args)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, message) = refuse(&["--max-steps", "8", "--data-root", "typo"]);
    assert!(code == Some(1) && message.contains("typo: there is no such folder"), "{message}");
    before = serde_json::from_slice(&std::fs::read(&environment).unwrap()).unwrap();
    let n_refs = before["training_refs"].as_u64().unwrap();
    before["training_refs"] = (n_refs + 1).into();
    std::fs::write(&environment, before.to_string()).unwrap();
    let (code, message) = refuse(&["--max-steps", "8"]);
    assert!(code == Some(1) && message.contains(&format!("trained on {} refs", n_refs + 1)), "{message}");
    before["training_refs"] = n_refs.into();
    std::fs::write(&environment, before.to_string()).unwrap();
    let (code, message) = refuse(&["--max-steps", "8"]);
    assert!(code == Some(0) && message.contains("as the run has it"), "{message}");
    assert!(!elsewhere.path().join("datasets").exists());

    // Without a config on the command line, a run is resumed with its own config.
    let name = whole.to_str().unwrap();
    let output = talent(&[
        "train",
        "--resume",
        name,
        "--max-steps",
        "6",
        "--device",
        "cpu",
        "--threads",
        "1",
        "--data-root",
        data_root().to_str().unwrap(),
    ]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(steps(&whole).len(), 6);

    // Resumed into another folder, a run gets new records and a new best model.
    let third = folder.path().join("third");
    let state = whole.join("checkpoints/step-00000005.state.safetensors");
    train(&third, &["--max-steps", "7", "--resume", state.to_str().unwrap()]);
    assert_eq!(steps(&third).iter().map(|step| step["step"].as_u64().unwrap()).collect::<Vec<_>>(), [6, 7]);
    assert_eq!(steps(&third)[0], steps(&whole)[5]);
    assert!(third.join("metrics.json").is_file());
}

#[test]
fn a_damaged_checkpoint_is_noticed_and_the_one_before_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, damaged] = ["whole", "damaged"].map(|name| folder.path().join(name));
    train(&whole, &["--max-steps", "5"]);
    train(&damaged, &["--max-steps", "4", "--checkpoint-every", "1steps"]);
    let newest = damaged.join("checkpoints/step-00000004.state.safetensors");
    let mut bytes = std::fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&newest, bytes).unwrap();
    let output = train(&damaged, &["--max-steps", "5", "--resume", "auto"]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("step-00000004.state.safetensors: the file is damaged"), "{message}");
    assert!(message.contains("resuming from") && message.contains("at step 3"), "{message}");
    let last = |run: &Path| tensors(run.join("checkpoints/step-00000005.state.safetensors"));
    assert_eq!(last(&whole), last(&damaged));

    // A damaged model is refused, and so is a folder without any intact state.
    let states: Vec<PathBuf> =
        std::fs::read_dir(damaged.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path()).collect();
    for path in &states {
        let bytes = std::fs::read(path).unwrap();
        std::fs::write(path, &bytes[..bytes.len() - 7]).unwrap();
    }
    let refused = train_in(data_root(), &damaged, &["--max-steps", "6", "--resume", "auto"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("nor any older checkpoint can be read"));
    let eval =
        talent(&["eval", "--run", damaged.to_str().unwrap(), "--data-root", data_root().to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&eval.stderr).contains("best.safetensors"));
    assert_eq!(eval.status.code(), Some(1));
}

#[test]
fn mixed_precision_and_accumulation_train() {
    let folder = tempfile::tempdir().unwrap();
    for (precision, dtype) in [("bf16", "BFloat16"), ("fp16", "Half")] {
        let run = folder.path().join(precision);
        train(&run, &["--max-steps", "2", "--precision", precision, "--set", "train.accumulate=2"]);
        assert_eq!(json(run.join("environment.json"))["matmul_dtype"], dtype);
    }
}

#[test]
fn one_batch_is_learned_by_heart() {
    let (folder, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let settings = Settings {
        train_images: 2,
        val_images: 1,
        test_a_images: 0,
        test_b_images: 0,
        ..Settings::default()
    };
    generate(&settings, root.path(), |_| {}).unwrap();
    let run = folder.path().join("run");
    let extra = [
        "--set",
        "train.epochs=300",
        "eval.every_epochs=300",
        "train.lr=0.005",
        "train.lr_encoders=0.005",
        "train.batch_size=32",
    ];
    let output = train_in(root.path(), &run, &extra);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let losses: Vec<f64> = records(&run).iter().filter_map(|record| record["loss"]["seg"].as_f64()).collect();
    let end = losses[losses.len() - 10..].iter().sum::<f64>() / 10.0;
    assert!(end < 0.5 * losses[0], "{} -> {end}", losses[0]);
}

#[test]
fn prediction_on_an_own_image() {
    let folder = tempfile::tempdir().unwrap();
    let (run, out) = (folder.path().join("run"), folder.path().join("out"));
    train(&run, &["--max-steps", "1"]);
    let picture = folder.path().join("own.png");
    image::save_buffer(&picture, &vec![120_u8; 50 * 30 * 3], 50, 30, image::ColorType::Rgb8).unwrap();
    let predict = |text: &str, image: &Path| {
        talent(&[
            "predict",
            "--checkpoint",
            // A run stands for its best model.
            run.to_str().unwrap(),
            "--image",
            image.to_str().unwrap(),
            "--text",
            text,
            "--out",
            out.to_str().unwrap(),
        ])
    };
    assert!(predict("left circle", &picture).status.success());
    let prediction = json(out.join("prediction.json"));
    assert_eq!(prediction["segmentation"]["size"], serde_json::json!([30, 50]));
    let counts = prediction["segmentation"]["counts"].as_str().unwrap();
    let mask = refcoco::Mask::from_rle_string(50, 30, counts).unwrap();
    let written = refcoco::read_image(&out.join("mask.png")).unwrap();
    assert!(written.data.chunks_exact(3).zip(&mask.data).all(|(pixel, &inside)| pixel[0] == inside * 255));
    assert!(out.join("overlay.png").is_file());

    for (text, image, culprit) in [
        ("  ", picture.as_path(), "expression is empty"),
        ("cat", &run.join("config.toml"), "config.toml"),
        ("cat", Path::new("/nowhere.jpg"), "/nowhere.jpg"),
    ] {
        let output = predict(text, image);
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains(culprit), "{culprit}");
    }
}

#[test]
fn mistakes_get_one_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let foreign = folder.path().join("foreign.safetensors");
    safetensors::serialize_to_file(
        Vec::<(String, safetensors::tensor::TensorView<'_>)>::new(),
        None,
        &foreign,
    )
    .unwrap();
    let foreign = foreign.to_str().unwrap();
    let [run, root] = [run.to_str().unwrap(), data_root().to_str().unwrap()];
    let cases: &[(&[&str], &str)] = &[
        (&["train", "--run-dir", run, "--dataset", "refcocox"], "unknown data set `refcocox`"),
        (
            &["train", "--run-dir", run, "--dataset", "refcoco", "--data-root", "/nowhere"],
            "refcoco/refs(unc).p",
        ),
        (&["train", "--run-dir", run, "--set", "train.batchsize=3"], "nearest is `train.batch_size`"),
        (&["train", "--run-dir", run, "--config", "refcoco/bse"], "nearest is `refcoco/base`"),
        (&["train", "--run-dir", run, "--device", "cuda:77"], "cuda:77"),
        (&["train", "--run-dir", run, "--resume", "/nowhere/step.safetensors"], "/nowhere/step.safetensors"),
        (
            &[
                "train",
                "--run-dir",
                run,
                "--config",
                "refcoco/base",
                "--dataset",
                "refshapes",
                "--data-root",
                root,
            ],
            "weights/dinov2",
        ),
        (&["eval", "--checkpoint", "/nowhere.safetensors"], "/nowhere.safetensors"),
        (&["eval", "--checkpoint", foreign, "--data-root", root], "name its config"),
        (&["eval"], "--run DIR or --checkpoint FILE"),
    ];
    for (args, culprit) in cases {
        let output = talent(args);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {message}");
        assert!(message.contains(culprit), "{args:?}: {message}");
        assert!(!message.contains("panicked"), "{args:?}: {message}");
    }
    assert!(!Path::new(run).exists(), "a mistake must leave nothing behind");
}

#[test]
fn an_exported_model_evaluates_alike() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    train(&run, &["--max-steps", "2"]);
    let own = run.join("checkpoints/best.safetensors");
    let exported = folder.path().join("official.safetensors");
    let output =
        talent(&["export", "--checkpoint", own.to_str().unwrap(), "--to", exported.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let eval = |checkpoint: &Path, extra: &[&str]| {
        let root = data_root().to_str().unwrap();
        let mut args = vec!["eval", "--json", "--device", "cpu", "--data-root", root, "--checkpoint"];
        args.push(checkpoint.to_str().unwrap());
        args.extend(extra);
        talent(&args)
    };
    let splits = |output: &Output| {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["splits"].clone()
    };
    let config = run.join("config.toml");
    let config = ["--config", config.to_str().unwrap()];
    assert_eq!(splits(&eval(&own, &[])), splits(&eval(&exported, &config)));
    // An export does not contain its config, and it is refused for another network.
    let message = |output: Output| String::from_utf8(output.stderr).unwrap();
    assert!(message(eval(&exported, &[])).contains("--config"));
    let refused = message(eval(&exported, &["--config", "refcoco/base", "--dataset", "refshapes"]));
    assert!(refused.contains("another shape") && refused.contains("official.safetensors"), "{refused}");
    assert!(message(eval(&own, &config)).contains("leave out --config"));
}

#[test]
fn parity_tells_by_its_exit_code() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../parity/tests/golden");
    let output = talent(&["parity", "--golden", golden.to_str().unwrap(), "--skip", "full", "--json"]);
    // The cases that need photos cannot be run here.
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((report["failed"].as_u64(), report["skipped"].as_u64()), (Some(0), Some(1)));
    assert!(report["passed"].as_u64().unwrap() > 50);
}

#[test]
fn parameters_are_counted_without_weight_files() {
    let output = talent(&["params", "--config", "refcoco/base", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    for (group, n) in [
        ("adapters", 2_333_232),
        ("head", 20_441_601),
        ("neck", 7_753_728),
        ("decoder", 7_899_136),
        ("projector", 4_788_737),
        ("frozen", 150_016_257),
    ] {
        assert_eq!(report[group].as_u64(), Some(n), "{group}");
    }
}
