//! `eval --predictions`: metrics of predicted masks in a file.
#![allow(missing_docs)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use refcoco::{Dataset, Mask};
use serde_json::{Value, json};

/// The project's example data set: two balls and a box in one picture, a ball in another.
fn data_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets")
}

fn score(predictions: &Path, split: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_talent-data"))
        .args(["score", "--dataset", "example", "--split", split, "--json", "--predictions"])
        .arg(predictions)
        .arg("--data-root")
        .arg(data_root())
        .output()
        .unwrap()
}

fn line(ref_id: i64, sent_id: i64, mask: &Mask) -> String {
    let segmentation = json!({"size": [mask.height, mask.width], "counts": mask.to_rle_string()});
    format!("{}\n", json!({"ref_id": ref_id, "sent_id": sent_id, "segmentation": segmentation}))
}

#[test]
fn by_hand_on_the_example() {
    let dataset = Dataset::open("example", &data_root()).unwrap();
    let target = |index: usize| dataset.target(&dataset.refs[index]).unwrap();
    let (red, blue, bx) = (target(0), target(1), target(2));
    let mut both = red.clone();
    both.unite(&blue);
    let empty = Mask::zeros(160, 112);
    // Refs 1 to 4 with expressions 1 and 2, 3, 4, 5. Predictions: correct, both balls, the wrong ball, half the mask, correctly
    // empty.
    let mut half = bx.clone();
    for pixel in half.data.iter_mut().take(112 * 160 / 2) {
        *pixel = 0;
    }
    let lines =
        [line(1, 1, &red), line(1, 2, &both), line(2, 3, &red), line(3, 4, &half), line(4, 5, &empty)]
            .concat();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("predictions.jsonl");
    std::fs::write(&file, &lines).unwrap();
    let output = score(&file, "train");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let train = &report["splits"]["train"];
    let number = |key: &str| train[key].as_f64().unwrap_or_else(|| panic!("{key}: {train}"));
    let area = |mask: &Mask| mask.area() as f64;
    let ious = [1.0, area(&red) / area(&both), 0.0, area(&half) / area(&bx), 0.0];
    let near = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-4, "{found} {expected}");
    near(number("mIoU"), 100.0 * ious.iter().sum::<f64>() / 5.0);
    assert_eq!((number("n_expressions"), number("n_with_distractors")), (5.0, 3.0));
    near(number("nta_mass"), 100.0 * (0.0 + area(&blue) / area(&both) + 1.0) / 3.0);
    near(number("nta_rate"), 200.0 / 3.0);
    near(number("identity_error"), 100.0 / 3.0);
    near(number("N-acc"), 100.0);
    near(number("gIoU"), 100.0 * (ious.iter().sum::<f64>() + 1.0) / 5.0);
    // Thresholds are strict, and the IoU never quite reaches 1: Pr@50 counts IoU > 0.5.
    near(number("Pr@50"), 100.0 * ious.iter().filter(|iou| **iou > 0.5).count() as f64 / 5.0);

    for (broken, message) in [
        (lines.replacen("\"sent_id\":5", "\"sent_id\":4", 1), "no expression with ref_id 4 and sent_id 4"),
        (format!("{lines}{}", line(1, 2, &red)), "line 6: ref_id 1, sent_id 2 stands in line 2 already"),
        (lines.lines().take(4).map(|line| format!("{line}\n")).collect(), "1 of 5 expressions of train"),
        (lines.replacen("112,160", "160,112", 1), "line 1: the mask is 160x112"),
        (lines.replacen("counts", "count", 1), "line 1: malformed RLE"),
        (format!("{lines}{{\"ref_id\": 1"), "line 6"),
    ] {
        std::fs::write(&file, broken).unwrap();
        let output = score(&file, "train");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{error}");
        let last = error.lines().last().unwrap_or_default();
        assert!(last.contains(message) && last.contains("predictions.jsonl"), "{message}: {error}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_suite_scores_what_is_there_and_names_what_is_not() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../refcoco/tests/golden/published");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("all.jsonl");
    let mut text = String::new();
    // All of D-cube exactly, and RRSIS-D but for its test split. Their ids collide nowhere because the lines name their set.
    for name in ["d3", "rrsisd"] {
        let dataset = Dataset::open(name, &root).unwrap();
        for reference in dataset.refs.iter().filter(|reference| reference.split != "test") {
            let expression = &reference.expressions[0];
            let mask = line(reference.ref_id, expression.sent_id, &dataset.target(reference).unwrap());
            text += &mask.replacen('{', &format!("{{\"dataset\": \"{name}\", "), 1);
        }
    }
    std::fs::write(&file, text).unwrap();
    let run = |suite: &str, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_talent-data"));
        command.args(["score", "--suite", suite, "--predictions"]).arg(&file).arg("--data-root").arg(&root);
        command.args(more).output().unwrap()
    };
    let html = folder.path().join("report.html");
    let output = run("robustness", &["--json", "--html", html.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let splits: Vec<&String> = report["splits"].as_object().unwrap().keys().collect();
    assert_eq!(splits, ["d3 abs", "d3 pres", "rrsisd val"]);
    // The official IoU adds 1e-6 to the union.
    assert!(report["splits"]["d3 pres"]["mIoU"].as_f64().unwrap() > 99.999, "{report}");
    assert_eq!(report["splits"]["d3 abs"]["N-acc"], 100.0, "{report}");
    assert!(report["splits"]["d3 pres"]["groups"]["with distractors"].is_object());
    let missing = report["missing"].as_array().unwrap();
    let why = |name: &str| {
        let of = missing.iter().find(|missing| missing["data_set"] == name);
        of.unwrap_or_else(|| panic!("{name}: {missing:?}"))["why"].as_str().unwrap().to_owned()
    };
    assert!(why("rrsisd test").contains("1 of 1 expressions"), "{}", why("rrsisd test"));
    assert!(why("grefcoco").contains("grefs"), "{}", why("grefcoco"));
    let page = std::fs::read_to_string(&html).unwrap();
    assert!(page.contains("d3 pres") && page.contains("Not scored"), "{page}");

    let text = run("rrsisd,d3", &[]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("By group:") && text.contains("Not scored:"), "{text}");
    let wrong = run("robust", &[]);
    assert!(!wrong.status.success());
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("robustness"), "{wrong:?}");
}
