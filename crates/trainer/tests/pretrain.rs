//! Encoders of the testbed are trained once, reused, and not changed by parameter-efficient tuning.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

mod common;
mod data;

use common::{MINIATURE, talent};
use data::data_root;

fn tensors(file: &Path) -> BTreeMap<String, Vec<u8>> {
    let bytes = std::fs::read(file).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    file.tensors().into_iter().map(|(name, view)| (name, view.data().to_vec())).collect()
}

/// Encoders of the miniature, and the commands that use them.
struct Trial {
    folder: tempfile::TempDir,
}

impl Trial {
    /// Pretrains the encoders.
    fn new() -> Self {
        let trial = Self { folder: tempfile::tempdir().unwrap() };
        trial.call(&["pretrain"], &[]);
        trial
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn encoder(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.safetensors"))
    }

    /// Runs a command, which must succeed; returns its standard error.
    fn call(&self, command: &[&str], extra: &[&str]) -> String {
        let weights =
            ["image", "text"].map(|name| format!("weights.{name}={}", self.encoder(name).display()));
        let mut args = command.to_vec();
        args.extend(["--preset", "testbed", "--device", "cpu", "--threads", "1"]);
        args.extend(["--data-root", data_root().to_str().unwrap(), "--set"]);
        args.extend(MINIATURE);
        args.extend(["data.datasets=[\"refshapes\"]", "pretrain.dataset=refshapes"]);
        args.extend(["pretrain.image_steps=4", "pretrain.text_steps=3", "pretrain.batch_size=4"]);
        args.extend(weights.iter().map(String::as_str));
        args.extend(extra);
        let output = talent(&args);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{error}");
        error
    }

    /// Trains three steps into a folder and returns the tensors of the last model.
    fn train(&self, run: &str, extra: &[&str]) -> BTreeMap<String, Vec<u8>> {
        let run = self.path(run);
        let command = ["train", "--run-dir", run.to_str().unwrap(), "--max-steps", "3"];
        self.call(&[&command, extra].concat(), &[]);
        tensors(&run.join("checkpoints/last.safetensors"))
    }

    fn eval(&self, run: &str, extra: &[&str]) -> std::process::Output {
        let (run, root) = (self.path(run), data_root());
        let args = ["eval", "--run", run.to_str().unwrap(), "--json", "--data-root", root.to_str().unwrap()];
        talent(&[&args, extra].concat())
    }
}

#[test]
fn encoders_are_made_once() {
    let trial = Trial::new();
    let report = std::fs::read_to_string(trial.path("pretrain.json")).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    for (encoder, name) in
        [("image", "object_patch_category"), ("image", "patch_category"), ("text", "colour")]
    {
        let accuracy = report["held_out"][encoder][name].as_f64().unwrap();
        assert!((0.0..=100.0).contains(&accuracy), "{report}");
    }
    let made = tensors(&trial.encoder("image"));
    let again = trial.call(&["pretrain"], &[]);
    assert!(again.contains("are there already"), "{again}");
    assert!(report["held_out"]["image"]["position_within_a_patch"].is_number(), "{report}");
    assert!(report["held_out"]["text"]["side"].is_number(), "{report}");
    // Pretraining twice gives the same encoders; another seed gives different ones.
    trial.call(&["pretrain", "--force"], &[]);
    assert_eq!(tensors(&trial.encoder("image")), made);
    trial.call(&["pretrain", "--seed", "5"], &[]);
    assert_ne!(tensors(&trial.encoder("image")), made);
}

#[test]
fn encoders_stay_frozen_and_are_stored_once() {
    let trial = Trial::new();
    let (after, encoder) = (trial.train("run", &[]), tensors(&trial.encoder("image")));
    assert!(
        after.contains_key("dinov2.blocks.0.ls_gate.gamma")
            || after.keys().any(|name| name.contains(".adapter."))
    );
    for name in encoder.keys() {
        assert!(!after.contains_key(&format!("dinov2.{name}")), "{name} is stored a second time");
    }
    let embedded = trial.train("whole", &["--embed-encoders"]);
    for (name, bytes) in &encoder {
        assert!(embedded[&format!("dinov2.{name}")] == *bytes, "{name} has changed");
    }
    assert!(after.iter().all(|(name, bytes)| embedded[name] == *bytes));
    // `--regime full` trains the encoders, too.
    let full = trial.train("full", &["--regime", "full"]);
    assert!(full["dinov2.blocks.0.mlp.fc1.weight"] != encoder["blocks.0.mlp.fc1.weight"]);
}

#[test]
fn a_checkpoint_finds_its_encoders_and_no_others() {
    let trial = Trial::new();
    trial.train("run", &[]);
    let splits = |output: &std::process::Output| {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["splits"].clone()
    };
    let message = |output: std::process::Output| String::from_utf8(output.stderr).unwrap();
    let before = splits(&trial.eval("run", &[]));

    let (image, moved) = (trial.encoder("image"), trial.path("moved"));
    let other = moved.join(image.file_name().unwrap());
    std::fs::create_dir(&moved).unwrap();
    std::fs::rename(&image, &other).unwrap();
    std::fs::copy(trial.encoder("text"), moved.join("text.safetensors")).unwrap();
    assert!(message(trial.eval("run", &[])).contains("--encoder-root"));
    let root = ["--encoder-root", moved.to_str().unwrap()];
    assert_eq!(splits(&trial.eval("run", &root)), before);

    let mut bytes = std::fs::read(&other).unwrap();
    std::fs::copy(&other, &image).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&other, bytes).unwrap();
    assert!(message(trial.eval("run", &root)).contains("SHA-256"));
}

#[test]
fn features_are_measured_stage_by_stage() {
    let trial = Trial::new();
    trial.train("run", &[]);
    let features = trial.eval("run", &["--features"]);
    let report: Value = serde_json::from_slice(&features.stdout).unwrap();
    let stages = report["feature_nta"]["val"].as_array().unwrap().iter();
    let stages: Vec<&str> = stages.map(|stage| stage["stage"].as_str().unwrap()).collect();
    assert_eq!(stages, ["adapter in block 1", "neck level 3", "neck level 4", "neck level 5"]);
}
