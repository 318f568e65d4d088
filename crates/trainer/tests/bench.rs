//! Reports of the `bench` commands are complete and consistent.

mod common;

use common::{MINIATURE, talent};
use serde_json::Value;

const KEYS: [&str; 13] = [
    "median_s",
    "min_s",
    "max_s",
    "samples_per_s",
    "peak_rss_mib",
    "flops",
    "gflops_per_s",
    "matmul_gflops_per_s",
    "matmul_share",
    "threads",
    "dtype",
    "device",
    "stages",
];

fn bench(args: &[&str]) -> Value {
    let mut command = vec!["bench"];
    command.extend(args);
    command.extend(["--json", "--repeats", "3", "--warm-up", "1", "--device", "cpu", "--threads", "2"]);
    if args[0] != "loss" {
        command.push("--set");
        command.extend(MINIATURE);
    }
    let output = talent(&command);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    for key in KEYS {
        assert!(!report[key].is_null(), "{key} of {args:?}");
    }
    let number = |key: &str| report[key].as_f64().unwrap();
    assert!(number("min_s") <= number("median_s") && number("median_s") <= number("max_s"));
    let rate = number("flops") / number("median_s");
    assert!((number("gflops_per_s") * 1e9 / rate - 1.0).abs() < 1e-9);
    assert!(
        (number("matmul_share") * number("matmul_gflops_per_s") / number("gflops_per_s") - 1.0).abs() < 1e-9
    );
    assert_eq!(report["threads"], 2);
    report
}

fn stages(report: &Value) -> Vec<&str> {
    let stages = report["stages"].as_object().unwrap();
    let inside: f64 = stages.values().map(|seconds| seconds.as_f64().unwrap()).sum();
    // Stage times are means, while the time of the whole is a median.
    assert!(inside <= 1.5 * report["max_s"].as_f64().unwrap(), "{report}");
    stages.keys().map(String::as_str).collect()
}

#[test]
fn a_training_step() {
    let report = bench(&["step", "--preset", "tiny", "--batch-size", "4"]);
    let expected = [
        "adapters",
        "backward",
        "cpcl",
        "data",
        "decoder",
        "neck",
        "optimiser",
        "projector",
        "seg",
        "tccl",
        "text",
        "vision blocks",
    ];
    let mut found = stages(&report);
    found.sort_unstable();
    assert_eq!(found, expected);
    assert_eq!((&report["dtype"], &report["batch_size"]), (&Value::from("Float"), &Value::from(4)));
    let half = bench(&["step", "--preset", "tiny", "--batch-size", "4", "--precision", "bf16"]);
    assert_eq!(half["dtype"], "BFloat16");
    assert_eq!(half["flops"], report["flops"]);
    let again = bench(&["step", "--preset", "tiny", "--batch-size", "4", "--recompute"]);
    assert_eq!(again["flops"], report["flops"]);
}

#[test]
fn inference() {
    let one = bench(&["forward", "--preset", "tiny", "--batch-size", "1"]);
    let three = bench(&["eval", "--preset", "tiny", "--batch-size", "3", "--image-size", "60x40"]);
    assert_eq!(three["flops"].as_u64().unwrap(), 3 * one["flops"].as_u64().unwrap());
    assert!(stages(&one).contains(&"vision blocks") && stages(&three).contains(&"masks"));
}

#[test]
fn the_consistency_loss() {
    for (passing, least) in [("0.2", 0.2), ("1.0", 1.0)] {
        let report = bench(&["loss", "--shape", "2,8,6,6", "--passing", passing, "--levels", "1"]);
        let share = report["passing"][0].as_f64().unwrap();
        assert!((least..least + 0.1).contains(&share), "{share}");
        assert!(report["peak_extra_mib"].as_f64().unwrap() >= 0.0);
    }
}

#[test]
fn mistakes_are_named() {
    let cases: [(&[&str], &str); 5] = [
        (&["bench", "step", "--preset", "tiny", "--batch-size", "0"], "--batch-size"),
        (&["bench", "eval", "--preset", "tiny", "--image-size", "640"], "640x480"),
        (&["bench", "loss", "--passing", "0"], "--passing"),
        (&["bench", "loss", "--shape", "1,2,3"], "--shape"),
        (&["bench", "forward", "--preset", "tiny", "--repeats", "0"], "--repeats"),
    ];
    for (args, culprit) in cases {
        let output = talent(args);
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        assert!(message.contains(culprit) && !message.contains("panicked"), "{args:?}: {message}");
    }
}
