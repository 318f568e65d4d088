//! Output that cannot be written does not stop a run, and control characters in output do not reach the terminal.
#![allow(missing_docs)]

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

mod common;
mod data;

use common::{MINIATURE, talent};
use data::data_root;

const PROGRAM: &str = env!("CARGO_BIN_EXE_talent");

fn training(run: &Path, extra: &[&str]) -> Vec<String> {
    let mut args = vec!["train", "--device", "cpu", "--threads", "1", "--checkpoint-every", "1steps"];
    args.extend(["--data-root", data_root().to_str().unwrap(), "--run-dir", run.to_str().unwrap(), "--set"]);
    args.extend(MINIATURE);
    args.extend(extra);
    args.into_iter().map(str::to_owned).collect()
}

fn full() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

fn wait_for_records(run: &Path, n: usize) {
    let started = Instant::now();
    let count = || std::fs::read_to_string(run.join("records.jsonl")).unwrap_or_default().lines().count();
    while count() < n {
        assert!(started.elapsed() < Duration::from_secs(120), "the run does not begin");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn send(child: &Child, signal: &str) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn a_run_goes_on_where_nobody_can_read_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str| folder.path().join(name);
    let finished = |run: &Path| run.join("metrics.json").is_file() && run.join("overlays.png").is_file();

    let args = training(&run("full"), &["train.epochs=2"]);
    let status = Command::new(PROGRAM).args(&args).stdout(full()).stderr(full()).status().unwrap();
    assert!(status.success() && finished(&run("full")), "{status}");

    let args = training(&run("pipe"), &["train.epochs=2"]);
    let mut child =
        Command::new(PROGRAM).args(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    let status = child.wait().unwrap();
    assert!(status.success() && finished(&run("pipe")), "{status}");

    let args = training(&run("closed"), &["train.epochs=2"]);
    let status =
        Command::new("sh").args(["-c", "exec \"$0\" \"$@\" >&- 2>&-", PROGRAM]).args(&args).status().unwrap();
    assert!(status.success() && finished(&run("closed")), "{status}");

    // A failing command exits with code 1 even if nobody can read the error.
    let args = training(&run("full"), &["train.epochs=2"]);
    let status = Command::new(PROGRAM).args(&args).stdout(full()).stderr(full()).status().unwrap();
    assert_eq!(status.code(), Some(1));
}

#[test]
fn a_terminal_that_closes_is_a_signal_like_others() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let args = training(&run, &["train.epochs=500"]);
    let child =
        Command::new(PROGRAM).args(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_records(&run, 3);
    // Both a shell and the kernel may send SIGHUP.
    send(&child, "-STOP");
    send(&child, "-HUP");
    send(&child, "-HUP");
    send(&child, "-CONT");
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(129), "{said}");
    assert!(said.contains("Go on with the same command"), "{said}");
}

#[test]
fn nohup_is_obeyed() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let args = training(&run, &["train.epochs=500"]);
    let null = || Stdio::null();
    let mut child = Command::new("sh")
        .args(["-c", "trap '' HUP; exec \"$0\" \"$@\"", PROGRAM])
        .args(&args)
        .stdin(null())
        .stdout(null())
        .stderr(null())
        .spawn()
        .unwrap();
    wait_for_records(&run, 2);
    send(&child, "-HUP");
    wait_for_records(&run, 8);
    assert!(child.try_wait().unwrap().is_none());
    send(&child, "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

#[test]
fn what_a_command_is_asked_for_must_not_get_lost() {
    let params = ["params", "--preset", "tiny"];
    let output = Command::new(PROGRAM).args(params).stdout(full()).stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("error: standard output: No space left on device"), "{said}");
    // A closed pipe is not an error: its reader may have seen enough.
    let mut child = Command::new(PROGRAM).args(params).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
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
    for args in [
        ["eval", "--checkpoint", "no\u{1b}[2Jfile", "--dataset", "\u{1b}[2J"],
        ["train", "--set", "train.l\u{1b}[2Jr=1", "--seed", "1"],
        ["train", "--no\u{1b}[2Jsuch", "1", "--seed", "1"],
        ["train", "--config", "\u{1b}[2J", "--seed", "1"],
    ] {
        let output = talent(&args);
        assert_harmless(&output);
        assert!(output.stdout.len() + output.stderr.len() > 0, "{args:?}");
    }
}

#[test]
fn settings_that_cannot_be_meant_are_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |args: &[&str], parts: &[&str]| {
        let output = Command::new(PROGRAM)
            .args(args)
            .current_dir(folder.path())
            .env_remove("RUST_BACKTRACE")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(parts.iter().all(|part| said.contains(part)), "{args:?}: {said}");
        assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none(), "{args:?}");
    };
    let data = data_root().to_str().unwrap();
    let train = ["train", "--device", "cpu", "--data-root", data, "--set"];
    let set = |setting: &'static str| [&train[..], &[setting]].concat();
    refused(&set("train.clip_norm=inf"), &["train.clip_norm", "0 is for no clipping"]);
    refused(&set("train.eps=-1"), &["train.eps"]);
    refused(&set("train.betas=[0.9, 1.5]"), &["train.betas"]);
    refused(&set("name=../../evil"), &["name (../../evil)"]);
    refused(&set("model.input_size=120000"), &["GiB of memory", "model.input_size 120000"]);
    refused(&set("model.image.depth=1000000000"), &["model.image.depth must be at most 1000"]);
    refused(&set("model.text.vocabulary=9000000000000"), &["GiB of memory", "vocabulary 9000000000000"]);
    refused(&set("model.image.fusion_width=800000000"), &["model.image.fusion_width must be at most"]);
    refused(&["bench", "eval", "--preset", "tiny", "--batch-size", "1000000000000"], &["sentences at once"]);
    refused(&["bench", "forward", "--preset", "tiny", "--threads", "1000000000"], &["--threads 1000000000"]);
    refused(
        &["params", "--preset", "base", "--set", "model.image.depth=1000000000"],
        &["model.image.depth must be at most 1000"],
    );
    refused(
        &["bench", "forward", "--preset", "tiny", "--device", "cpu", "--batch-size", "1000000000"],
        &["GiB of memory", "samples at once 1000000000"],
    );

    let output = Command::new(PROGRAM)
        .args(["params", "--data-root", data])
        .env("TALENT_MAX_IMAGE_MIB", "abc")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("TALENT_MAX_IMAGE_MIB=\"abc\""));
}
