//! Encoders for the testbed: made, kept, and left alone by parameter-efficient tuning.

use std::collections::BTreeMap;
use std::path::Path;

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

#[test]
fn encoders_are_made_once_and_stay_frozen() {
    let folder = tempfile::tempdir().unwrap();
    let (image, text) = (folder.path().join("image.safetensors"), folder.path().join("text.safetensors"));
    let run = folder.path().join("run");
    let weights = [format!("weights.image={}", image.display()), format!("weights.text={}", text.display())];
    let call = |command: &[&str], extra: &[&str]| {
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
    };
    call(&["pretrain"], &[]);
    let report: Value =
        serde_json::from_str(&std::fs::read_to_string(folder.path().join("pretrain.json")).unwrap()).unwrap();
    for (encoder, name) in
        [("image", "object_patch_category"), ("image", "patch_category"), ("text", "colour")]
    {
        let accuracy = report["held_out"][encoder][name].as_f64().unwrap();
        assert!((0.0..=100.0).contains(&accuracy), "{report}");
    }
    let made = tensors(&image);
    let again = call(&["pretrain"], &[]);
    assert!(again.contains("are there already"), "{again}");
    // Two makings give the same encoders; another seed gives others.
    call(&["pretrain", "--force"], &[]);
    assert_eq!(tensors(&image), made);
    call(&["pretrain", "--seed", "5"], &[]);
    assert_ne!(tensors(&image), made);

    let run_dir = run.to_str().unwrap();
    call(&["train", "--run-dir", run_dir, "--max-steps", "3"], &[]);
    let (after, encoder) = (tensors(&run.join("checkpoints/last.safetensors")), tensors(&image));
    assert!(
        after.contains_key("dinov2.blocks.0.ls_gate.gamma")
            || after.keys().any(|name| name.contains(".adapter."))
    );
    for name in encoder.keys() {
        assert!(!after.contains_key(&format!("dinov2.{name}")), "{name} is stored a second time");
    }
    let whole = folder.path().join("whole");
    let whole_dir = whole.to_str().unwrap();
    call(&["train", "--run-dir", whole_dir, "--max-steps", "3", "--embed-encoders"], &[]);
    let embedded = tensors(&whole.join("checkpoints/last.safetensors"));
    for (name, bytes) in &encoder {
        assert!(embedded[&format!("dinov2.{name}")] == *bytes, "{name} has changed");
    }
    assert!(after.iter().all(|(name, bytes)| embedded[name] == *bytes));

    // The checkpoint finds its encoders, moved ones too, and no others.
    let eval = |extra: &[&str]| {
        let root = data_root().to_str().unwrap();
        let mut args = vec!["eval", "--run", run_dir, "--json", "--data-root", root];
        args.extend(extra);
        talent(&args)
    };
    let splits = |output: &std::process::Output| {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["splits"].clone()
    };
    let before = splits(&eval(&[]));
    let moved = folder.path().join("moved");
    std::fs::create_dir(&moved).unwrap();
    std::fs::rename(&image, moved.join(image.file_name().unwrap())).unwrap();
    let message = |output: std::process::Output| String::from_utf8(output.stderr).unwrap();
    assert!(message(eval(&[])).contains("--encoder-root"));
    let text = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
    for file in text.filter(|path| path.extension().is_some_and(|extension| extension == "safetensors")) {
        std::fs::copy(&file, moved.join(file.file_name().unwrap())).unwrap();
    }
    let root = ["--encoder-root", moved.to_str().unwrap()];
    assert_eq!(splits(&eval(&root)), before);
    let other = moved.join(image.file_name().unwrap());
    let mut bytes = std::fs::read(&other).unwrap();
    std::fs::copy(&other, &image).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&other, bytes).unwrap();
    assert!(message(eval(&root)).contains("SHA-256"));
    // The same from scratch trains everything.
    let full = folder.path().join("full");
    call(&["train", "--regime", "full", "--run-dir", full.to_str().unwrap(), "--max-steps", "3"], &[]);
    let after = tensors(&full.join("checkpoints/last.safetensors"));
    assert!(after["dinov2.blocks.0.mlp.fc1.weight"] != encoder["blocks.0.mlp.fc1.weight"]);

    let features = talent(&[
        "eval",
        "--run",
        run_dir,
        "--features",
        "--json",
        "--data-root",
        data_root().to_str().unwrap(),
    ]);
    let report: Value = serde_json::from_slice(&features.stdout).unwrap();
    let stages: Vec<&str> = report["feature_nta"]["val"]
        .as_array()
        .unwrap()
        .iter()
        .map(|stage| stage["stage"].as_str().unwrap())
        .collect();
    assert_eq!(stages, ["adapter in block 1", "neck level 3", "neck level 4", "neck level 5"]);
}
