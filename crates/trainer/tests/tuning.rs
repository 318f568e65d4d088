//! Every encoder and every method of tuning through the whole program: training, resuming, evaluation, prediction, export.
#![allow(missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;
use tch::Tensor;

mod common;
mod data;

use common::{MINIATURE, talent};
use data::data_root;

fn run(args: &[&str]) -> (bool, String, String) {
    let output = talent(args);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

#[track_caller]
fn succeed(args: &[&str]) -> String {
    let (done, out, said) = run(args);
    assert!(done, "{args:?}: {said}");
    out
}

fn train_args(folder: &Path, n_steps: &str, options: &[&str], set: &[&str]) -> Vec<String> {
    let mut args = vec!["train", "--device", "cpu", "--threads", "1", "--checkpoint-every", "2steps"];
    args.extend(["--max-steps", n_steps, "--data-root", data_root().to_str().unwrap()]);
    args.extend(["--run-dir", folder.to_str().unwrap()]);
    args.extend(options);
    args.push("--set");
    args.extend(MINIATURE);
    args.extend(["train.regime=pet", "train.lr=0.01", "train.lr_encoders=0.01"]);
    args.extend(set);
    args.into_iter().map(str::to_owned).collect()
}

#[track_caller]
fn train(folder: &Path, n_steps: &str, options: &[&str], set: &[&str]) -> String {
    let args = train_args(folder, n_steps, options, set);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (done, _, said) = run(&args);
    assert!(done, "{args:?}: {said}");
    said
}

fn tokenizer(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../refcoco/tests/golden/tokenizers");
    format!("weights.tokenizer={}", folder.join(name).display())
}

/// Frozen encoders in files of their own, cut out of a network with random values.
fn encoder_files(root: &Path, set: &[&str]) -> [String; 2] {
    let (folder, whole) = (root.join("source"), root.join("whole.safetensors"));
    train(&folder, "1", &[], set);
    let checkpoint = folder.join("checkpoints/last.safetensors");
    succeed(&["export", "--checkpoint", checkpoint.to_str().unwrap(), "--to", whole.to_str().unwrap()]);
    let tensors = Tensor::read_safetensors(&whole).unwrap();
    ["dinov", "txt_backbone"].map(|prefix| {
        let own = tensors.iter().filter(|(name, _)| name.starts_with(prefix));
        let own = own.filter(|(name, _)| !name.contains(".adapter.") && !name.contains("ls_gate"));
        let own: Vec<(&str, &Tensor)> =
            own.map(|(name, tensor)| (name.split_once('.').unwrap().1, tensor)).collect();
        let file = root.join(format!("{prefix}.safetensors"));
        Tensor::write_safetensors(&own, &file).unwrap();
        file.display().to_string()
    })
}

fn tensors(file: &Path) -> BTreeMap<String, Tensor> {
    Tensor::read_safetensors(file).unwrap().into_iter().collect()
}

fn last(folder: &Path) -> PathBuf {
    folder.join("checkpoints/last.safetensors")
}

fn mean_iou(args: &[&str]) -> f64 {
    let mut all = vec!["eval", "--json", "--device", "cpu", "--data-root", data_root().to_str().unwrap()];
    all.extend(args);
    let report: Value = serde_json::from_str(&succeed(&all)).unwrap();
    report["splits"]["val"]["mIoU"].as_f64().unwrap_or_else(|| panic!("{report:#}"))
}

/// Trains, resumes, evaluates, predicts and exports. Returns the names of the tensors that the last checkpoint stores.
fn whole_life(root: &Path, name: &str, set: &[&str]) -> BTreeSet<String> {
    let [straight, stopped] = ["straight", "stopped"].map(|kind| root.join(format!("{name}-{kind}")));
    train(&straight, "3", &[], set);
    train(&stopped, "2", &[], set);
    train(&stopped, "3", &["--resume", "auto"], set);
    // The files also say what was evaluated, and the stopped run evaluated once more.
    let [one, other] = [&straight, &stopped].map(|folder| tensors(&last(folder)));
    assert!(one.keys().eq(other.keys()));
    for (key, tensor) in &one {
        assert!(tensor.equal(&other[key]), "{name}: {key}: a resumed run ends elsewhere");
    }
    let checkpoint = last(&straight).display().to_string();
    assert!((0.0..=100.0).contains(&mean_iou(&["--checkpoint", &checkpoint])));
    let (picture, out) = (root.join("picture.png"), root.join(format!("{name}-out")));
    image::RgbImage::from_pixel(40, 30, image::Rgb([90, 80, 70])).save(&picture).unwrap();
    let [picture, out] = [picture, out].map(|path| path.display().to_string());
    let text = ["--text", "left bear", "--device", "cpu"];
    succeed(
        &[&["predict", "--checkpoint", &checkpoint, "--image", &picture, "--out", &out][..], &text].concat(),
    );
    assert!(Path::new(&out).join("mask.png").is_file());
    let to = root.join(format!("{name}.safetensors")).display().to_string();
    succeed(&["export", "--checkpoint", &checkpoint, "--to", &to]);
    one.into_keys().collect()
}

#[test]
fn every_method_of_tuning() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let [image, text] = encoder_files(root, &[]);
    let weights = [format!("weights.image={image}"), format!("weights.text={text}")];
    let with = |more: &[&str]| -> Vec<String> {
        weights.iter().cloned().chain(more.iter().map(|text| (*text).to_owned())).collect()
    };
    // What is stored below the encoders: only what trains.
    let expected: [(&str, &[&str]); 5] = [
        ("adapters", &["adapter.", "ls_gate."]),
        ("lora", &["lora_A.weight", "lora_B.weight"]),
        ("prompt", &["prompt.tokens"]),
        (
            "norms",
            &[
                "bias",
                "norm1.weight",
                "norm2.weight",
                "norm.weight",
                "ln_1.weight",
                "ln_2.weight",
                "ln_final.weight",
            ],
        ),
        ("head-only", &[]),
    ];
    for (method, parts) in expected {
        let set = with(&[&format!("model.tuning={method}"), "model.lora.dropout=0.1"]);
        let set: Vec<&str> = set.iter().map(String::as_str).collect();
        let stored = whole_life(root, method, &set);
        let inside: Vec<&String> = stored
            .iter()
            .filter(|name| name.starts_with("dinov2.") || name.starts_with("txt_backbone."))
            .collect();
        assert_eq!(inside.is_empty(), method == "head-only", "{method}");
        for name in inside {
            assert!(parts.iter().any(|part| name.contains(part)), "{method}: {name}");
        }
    }
    lora_leaves_and_returns(root, &with(&["model.tuning=lora"]));
}

/// Merged weights, and `peft`'s folders as the start of another run.
fn lora_leaves_and_returns(root: &Path, set: &[String]) {
    let run_dir = root.join("lora-straight");
    let checkpoint = last(&run_dir).display().to_string();
    let (merged, peft) = (root.join("merged.safetensors"), root.join("peft"));
    let [merged, peft] = [merged, peft].map(|path| path.display().to_string());
    succeed(&["export", "--checkpoint", &checkpoint, "--to", &merged, "--merge", "--peft", &peft]);
    let config = std::fs::read_to_string(run_dir.join("config.toml")).unwrap();
    assert!(config.contains("tuning = \"lora\""));
    let plain = root.join("plain.toml");
    std::fs::write(&plain, config.replace("tuning = \"lora\"", "tuning = \"head-only\"")).unwrap();
    let of_merged = mean_iou(&["--checkpoint", &merged, "--config", plain.to_str().unwrap()]);
    assert!((of_merged - mean_iou(&["--checkpoint", &checkpoint])).abs() < 0.01);
    // A folder is not overwritten.
    let (done, _, said) = run(&["export", "--checkpoint", &checkpoint, "--peft", &peft]);
    assert!(!done && said.contains("exists already"), "{said}");

    let lora = [format!("weights.image_lora={peft}/image"), format!("weights.text_lora={peft}/text")];
    let start: Vec<&str> = set.iter().chain(&lora).map(String::as_str).collect();
    let said = train(&root.join("again"), "1", &[], &start);
    assert!(said.contains("peft/image: 8 matrices") && said.contains("peft/text: 4 matrices"), "{said}");
    for (more, hint) in
        [("model.lora.rank=4", "model.lora.rank=8"), ("model.tuning=adapters", "model.tuning=lora")]
    {
        let args = train_args(&root.join("wrong"), "1", &[], &[&start[..], &[more]].concat());
        let (done, _, said) = run(&args.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(!done && said.contains("weights.image_lora") && said.contains(hint), "{said}");
    }
}

#[test]
fn every_encoder() {
    let root = tempfile::tempdir().unwrap();
    let dinov2 = ["model.image.encoder=dinov2", "model.image.n_registers=0"];
    let dinov3 = ["model.image.encoder=dinov3"];
    let siglip = [
        "model.text.encoder=siglip".to_owned(),
        "model.text.vocabulary=12".to_owned(),
        "model.text.context=9".to_owned(),
        tokenizer("siglip"),
    ];
    let siglip2 = [
        "model.text.encoder=siglip2".to_owned(),
        "model.text.vocabulary=19".to_owned(),
        "model.text.context=9".to_owned(),
        tokenizer("siglip2"),
    ];
    for (name, image, text) in [("old", &dinov2[..], &siglip), ("new", &dinov3[..], &siglip2)] {
        for method in ["adapters", "lora", "prompt"] {
            let method = format!("model.tuning={method}");
            let set: Vec<&str> = image
                .iter()
                .copied()
                .chain(text.iter().map(String::as_str))
                .chain([method.as_str()])
                .collect();
            let stored = whole_life(root.path(), &format!("{name}-{}", &method[13..]), &set);
            // Encoders without a file of their own are stored whole.
            assert!(stored.contains("txt_backbone.head.weight"));
            let prefix = if name == "old" { "dinov2.cls_token" } else { "dinov3.embeddings.cls_token" };
            assert!(stored.contains(prefix), "{prefix}");
        }
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let root = tempfile::tempdir().unwrap();
    let error = |set: &[&str]| {
        let args = train_args(&root.path().join("x"), "1", &[], set);
        let (done, _, said) = run(&args.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(!done, "{set:?}");
        said
    };
    let full = error(&["model.tuning=lora", "train.regime=full"]);
    assert!(full.contains("train.regime=full") && full.contains("model.tuning"), "{full}");
    assert!(error(&["model.text.encoder=siglip", "model.text.vocabulary=12"]).contains("weights.tokenizer"));
    let siglip = ["model.text.encoder=siglip", "model.text.vocabulary=12", "model.text.context=9"];
    let set = |more: &str| [&siglip[..], &[more]].concat().into_iter().map(str::to_owned).collect::<Vec<_>>();
    let error_of = |set: Vec<String>| error(&set.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(error_of(set("model.word_len=5")).contains("word_len (5) must be text.context (9)"));
    let other = error_of(set(&tokenizer("siglip2")));
    assert!(other.contains("must hold the 19 tokens"), "{other}");
    let size = error(&["model.input_size=34"]);
    assert!(size.contains("input_size (34)") && size.contains("32 and 40"), "{size}");
    let unknown = error(&["model.image.variant.gatedmlp=true"]);
    assert!(unknown.contains("gatedmlp") && unknown.contains("gated_mlp"), "{unknown}");
}
