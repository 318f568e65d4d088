//! `check-device` reports what passes, what fails and what there was no time for. CI runs all its parts, on the pack.

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;

#[path = "common/program.rs"]
mod program;

use program::talent;

/// Runs `check-device`. Returns name, status and message of each part, in order, and the process output.
fn check(args: &[&str]) -> (Vec<(String, String, String)>, Output) {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("check.json");
    let mut command = vec!["check-device", "--device", "cpu", "--quick", "--json", json.to_str().unwrap()];
    command.extend(args);
    let output = talent(&command);
    let report: Value =
        serde_json::from_slice(&std::fs::read(&json).unwrap_or_else(|_| b"{}".to_vec())).unwrap();
    let text = |part: &Value, key: &str| part[key].as_str().unwrap().to_owned();
    let parts = report["parts"].as_array().cloned().unwrap_or_default();
    for part in &parts {
        assert!(part["seconds"].is_number() && part["figures"].is_object(), "{part}");
    }
    assert!(parts.is_empty() || report["device"] == "cpu");
    (
        parts.iter().map(|part| (text(part, "name"), text(part, "status"), text(part, "message"))).collect(),
        output,
    )
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            std::fs::copy(&path, &to).unwrap();
        }
    }
}

#[test]
fn parts_pass_or_do_not_apply() {
    let (parts, output) = check(&["--only", "losses,nan,synchronisations,recordings-losses"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let statuses: Vec<(&str, &str)> =
        parts.iter().map(|(name, status, _)| (name.as_str(), status.as_str())).collect();
    assert_eq!(
        statuses,
        [
            ("recordings-losses", "passed"),
            ("losses", "passed"),
            ("nan", "passed"),
            ("synchronisations", "not applicable"),
        ]
    );
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("3 passed, 0 failed, 1 not applicable, 0 no time"), "{table}");
}

#[test]
fn a_changed_recording_fails_its_part_and_no_other() {
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../parity/tests/golden");
    let folder = tempfile::tempdir().unwrap();
    copy(&golden, folder.path());
    let changed = folder.path().join("loss_seg_soft.safetensors");
    let mut bytes = std::fs::read(&changed).unwrap();
    // Change the last values of the file; the header is at its start.
    for byte in bytes.iter_mut().rev().take(64) {
        *byte ^= 0x15;
    }
    std::fs::write(&changed, bytes).unwrap();
    let golden = folder.path().to_str().unwrap();
    let (parts, output) = check(&["--golden", golden, "--only", "recordings-losses,recordings-gradients"]);
    assert!(!output.status.success());
    assert_eq!((parts[0].1.as_str(), parts[1].1.as_str()), ("failed", "passed"), "{parts:?}");
    assert!(parts[0].2.contains("loss_seg_soft"), "{}", parts[0].2);
}

#[test]
fn what_finds_no_time_is_named() {
    let (parts, output) = check(&["--only", "train-kill-resume,losses", "--minutes", "0.06"]);
    assert!(!output.status.success());
    assert_eq!(parts.len(), 2, "{parts:?}");
    assert!(parts.iter().any(|(_, status, _)| status == "no time"), "{parts:?}");
    assert!(parts.iter().all(|(_, status, _)| status != "failed"), "{parts:?}");
}

#[test]
fn arguments_are_checked_first() {
    let (_, output) = check(&["--only", "speed"]);
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && message.contains("speed-bf16"), "{message}");
    let output = talent(&["check-device", "--device", "cuda:77"]);
    assert!(!output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains("cuda:77"));
    for minutes in ["-1", "nan"] {
        let (_, output) = check(&["--minutes", minutes]);
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && message.contains("--minutes"), "{message}");
    }
}

#[test]
fn a_check_that_cannot_begin_or_is_interrupted_leaves_no_good_report() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("check.json");
    let report = || -> serde_json::Value { serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap() };
    // That of an earlier check.
    std::fs::write(&file, r#"{"verdict": "passed"}"#).unwrap();
    let output = talent(&["check-device", "--device", "cuda:77", "--json", file.to_str().unwrap()]);
    assert!(!output.status.success());
    assert_eq!(report()["verdict"], "not ended");

    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_talent"))
        .args(["check-device", "--device", "cpu", "--quick", "--only", "losses,predict", "--json"])
        .arg(&file)
        .env("TMPDIR", folder.path())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while report()["parts"].as_array().is_none_or(Vec::is_empty) {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    let report = report();
    assert_eq!(report["verdict"], "interrupted");
    // `predict` needs the model of another part, which is planned with it.
    assert_eq!(report["planned"], serde_json::json!(["losses", "train-kill-resume", "predict"]));
    let left: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["check.json"]);
}
