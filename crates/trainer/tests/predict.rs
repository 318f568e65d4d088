//! `predict` over many images and expressions.
#![allow(missing_docs)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use refcoco::Dataset;
use serde_json::Value;

mod common;
mod data;

use common::{MINIATURE, talent};
use data::data_root;

/// A trained miniature, shared by all tests of this file.
fn checkpoint() -> &'static Path {
    static RUN: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, file) = RUN.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("run");
        let mut args = vec!["train", "--device", "cpu", "--threads", "1", "--max-steps", "4"];
        args.extend([
            "--data-root",
            data_root().to_str().unwrap(),
            "--run-dir",
            run.to_str().unwrap(),
            "--set",
        ]);
        args.extend(MINIATURE);
        let output = talent(&args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        (folder, run.join("checkpoints/best.safetensors"))
    });
    file
}

fn dataset() -> Dataset {
    Dataset::open("refshapes", data_root()).unwrap()
}

/// The folder of the images.
fn images() -> PathBuf {
    let dataset = dataset();
    let image = dataset.image_record(dataset.refs[0].image_id).unwrap();
    dataset.image_path(image).unwrap().parent().unwrap().to_path_buf()
}

/// Every expression of the validation split as a list of queries.
fn queries(file: &Path) -> usize {
    let dataset = dataset();
    let mut writer = csv::Writer::from_path(file).unwrap();
    writer.write_record(["image", "expression", "ref_id", "sent_id"]).unwrap();
    let queries = refcoco::evaluation::queries(&dataset, "val").unwrap();
    for query in &queries {
        let reference = &dataset.refs[query.ref_index];
        let image = dataset.image_record(reference.image_id).unwrap();
        let path = dataset.image_path(image).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let ids = [reference.ref_id, query.sent_id].map(|id| id.to_string());
        writer.write_record([name, &query.text, &ids[0], &ids[1]]).unwrap();
    }
    writer.flush().unwrap();
    queries.len()
}

fn arguments(out: &Path, options: &[&str]) -> Vec<String> {
    let (checkpoint, images) = (checkpoint().to_str().unwrap(), images());
    let mut args = vec!["predict", "--device", "cpu", "--threads", "1", "--checkpoint", checkpoint];
    args.extend(["--image", images.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    args.extend(options);
    args.into_iter().map(str::to_owned).collect()
}

#[track_caller]
fn predict(out: &Path, options: &[&str]) -> String {
    let args = arguments(out, options);
    let output = talent(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

fn lines(out: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(out.join("predictions.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn metrics(args: &[&str]) -> Value {
    let root = data_root().to_str().unwrap();
    let output = talent(&[&["eval", "--json", "--data-root", root, "--split", "val"], args].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice::<Value>(&output.stdout).unwrap()["splits"]["val"].clone()
}

#[test]
fn predictions_with_ids_score_as_the_checkpoint_does() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("queries.csv");
    let n = queries(&list);
    let out = folder.path().join("out");
    let list = list.to_str().unwrap();
    predict(&out, &["--queries", list, "--batch-size", "5", "--masks"]);
    let found = lines(&out);
    assert_eq!(found.len(), n);
    for line in &found {
        let area = line["area"].as_u64().unwrap();
        assert_eq!(line["box"].is_null(), area == 0, "{line}");
        assert!(out.join(line["mask"].as_str().unwrap()).exists());
        assert!((0.0..=1.0).contains(&line["score"].as_f64().unwrap()));
    }
    let predictions = out.join("predictions.jsonl");
    let scored = metrics(&["--predictions", predictions.to_str().unwrap(), "--dataset", "refshapes"]);
    let evaluated =
        metrics(&["--checkpoint", checkpoint().to_str().unwrap(), "--device", "cpu", "--threads", "1"]);
    for name in ["mIoU", "oIoU", "Pr@50", "identity_error", "rec_acc50_from_masks"] {
        assert_eq!(scored[name], evaluated[name], "{name}");
    }
    // A second call has nothing to do; other settings are refused.
    assert!(predict(&out, &["--queries", list, "--batch-size", "5", "--masks"]).contains("are finished"));
    let args = arguments(&out, &["--queries", list]);
    let output = talent(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("masks"), "{said}");
}

#[test]
fn a_killed_call_goes_on_and_ends_with_the_same_lines() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("queries.csv");
    queries(&list);
    let options = ["--queries", list.to_str().unwrap(), "--batch-size", "1"];
    let whole = folder.path().join("whole");
    predict(&whole, &options);
    let killed = folder.path().join("killed");
    let mut n_kills = 0;
    for _ in 0..20 {
        let mut child = Command::new(env!("CARGO_BIN_EXE_talent"))
            .args(arguments(&killed, &options))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let unfinished = killed.join("predictions.unfinished.jsonl");
        let length = || std::fs::metadata(&unfinished).map_or(0, |found| found.len());
        let (before, started) = (length(), Instant::now());
        while length() <= before && started.elapsed() < Duration::from_secs(60) {
            if child.try_wait().unwrap().is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        if child.try_wait().unwrap().is_some() {
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        n_kills += 1;
        if n_kills == 3 {
            break;
        }
    }
    assert!(n_kills > 0, "it was never killed in the middle");
    predict(&killed, &options);
    let read = |out: &Path| std::fs::read(out.join("predictions.jsonl")).unwrap();
    assert!(read(&whole) == read(&killed));
}

#[test]
fn images_that_cannot_be_read_are_left_out_and_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let pictures = folder.path().join("pictures");
    std::fs::create_dir(&pictures).unwrap();
    let source = std::fs::read_dir(images()).unwrap().next().unwrap().unwrap().path();
    std::fs::copy(&source, pictures.join("a.jpg")).unwrap();
    std::fs::write(pictures.join("b.jpg"), "no image").unwrap();
    let out = folder.path().join("out");
    let run = |options: &[&str]| {
        let mut args = arguments(&out, &["--text", "the red circle", "a blue one"]);
        let at = args.iter().position(|arg| arg == "--image").unwrap() + 1;
        args[at] = pictures.to_str().unwrap().to_owned();
        args.extend(options.iter().map(|option| (*option).to_owned()));
        talent(&args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let strict = run(&["--strict"]);
    assert!(!strict.status.success() && String::from_utf8_lossy(&strict.stderr).contains("b.jpg"));
    let output = run(&["--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&summary["n_predictions"], &summary["left_out"][0]["image"]), (&2.into(), &"b.jpg".into()));
    let whole = std::fs::read(&source).unwrap();
    std::fs::write(pictures.join("b.jpg"), &whole[..whole.len() * 3 / 4]).unwrap();
    let strict = run(&["--strict"]);
    assert!(!strict.status.success() && String::from_utf8_lossy(&strict.stderr).contains("no end marker"));
    let output = run(&[]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.contains("b.jpg: the JPEG has no end marker"), "{told}");
    let images: Vec<Value> = lines(&out).into_iter().map(|line| line["image"].clone()).collect();
    assert_eq!(images, ["a.jpg", "a.jpg", "b.jpg", "b.jpg"]);
}
