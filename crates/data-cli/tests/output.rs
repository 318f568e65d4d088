//! What the `data` commands print.
#![allow(missing_docs)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn data(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_talent-data")).args(args).output().unwrap()
}

/// A data set whose names and expressions contain terminal control characters.
fn hostile_data(root: &Path) -> PathBuf {
    let folder = root.join("esc\u{1b}[2J");
    std::fs::create_dir(&folder).unwrap();
    let picture = "a\u{1b}]0;title\u{7}.png";
    image::RgbImage::from_pixel(8, 6, image::Rgb([9, 9, 9])).save(folder.join(picture)).unwrap();
    let line = |mask: serde_json::Value| {
        serde_json::json!({
            "image": picture, "mask": mask, "expressions": ["the \u{1b}[31mred\u{9b}2J \u{202e}one\r"],
            "category": "c\u{1b}[1m", "split": "val\u{1b}[5m",
        })
    };
    let lines = format!(
        "{}\n{}\n",
        line(serde_json::json!([1, 1, 6, 1, 6, 5])),
        line(serde_json::json!({"size": [1, 1]}))
    );
    std::fs::write(folder.join("refs.jsonl"), lines).unwrap();
    folder.join("refs.jsonl")
}

#[track_caller]
fn assert_harmless(output: &Output) {
    for (name, bytes) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
        let text = String::from_utf8_lossy(bytes);
        let harmful =
            |letter: char| (letter.is_control() && !"\n\t".contains(letter)) || letter == '\u{202e}';
        assert!(!text.contains(harmful), "{name}: {text:?}");
    }
}

#[test]
fn control_characters_stay_off_the_terminal() {
    let root = tempfile::tempdir().unwrap();
    let refs = hostile_data(root.path());
    let refs = refs.to_str().unwrap();
    let out = root.path().join("out.png");
    for args in [
        vec!["stats", "--dataset", refs],
        vec!["verify", "--dataset", refs],
        vec!["show", "--dataset", refs, "--ref", "1", "--out", out.to_str().unwrap()],
        vec!["stats", "--dataset", refs, "--json"],
        vec!["list", "--data-root", root.path().to_str().unwrap()],
    ] {
        let output = data(&args);
        assert_harmless(&output);
        assert!(output.stdout.len() + output.stderr.len() > 0, "{args:?}");
    }
    let output = data(&["verify", "--dataset", refs, "--json"]);
    serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap();
}

#[test]
fn settings_that_cannot_be_meant_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let place = root.path().join("d");
    let place = place.to_str().unwrap();
    let output = data(&["synth", "--data-root", place, "--set", "train_images=18446744073709551615"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("10,000,000"));
    assert!(!Path::new(place).exists());
}
