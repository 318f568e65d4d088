//! Memory and open files of a long run do not grow in its second half.
#![allow(missing_docs)]

use serde_json::Value;

mod common;
mod data;

use common::{MINIATURE, talent};
use data::data_root;

#[test]
fn evaluations_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let mut args =
        vec!["train", "--device", "cpu", "--threads", "1", "--data-root", data_root().to_str().unwrap()];
    args.extend(["--run-dir", run.to_str().unwrap(), "--set"]);
    args.extend(MINIATURE);
    // One evaluation, with its threads, every three steps.
    args.extend(["train.epochs=60"]);
    let output = talent(&args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let metrics: Value = serde_json::from_slice(&std::fs::read(run.join("metrics.json")).unwrap()).unwrap();
    let records = std::fs::read_to_string(run.join("records.jsonl")).unwrap();
    let steps: Vec<Value> = records.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let steps: Vec<&Value> = steps.iter().filter(|record| record["kind"] == "step").collect();
    let half = &steps[steps.len() / 2..];
    let grown = |key: &str| {
        let at = |step: &Value| step["runtime"][key].as_f64().unwrap();
        at(half[half.len() - 1]) - at(half[0])
    };
    // A leak of 1 MiB per evaluation would add 30.
    assert!(grown("rss_mib") < 10.0, "{} MiB in {} steps; {metrics}", grown("rss_mib"), half.len());
    assert!(grown("open_files") <= 0.0, "{} files", grown("open_files"));
}
