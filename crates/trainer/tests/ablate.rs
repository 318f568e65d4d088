//! Ablations of a miniature model, through the `talent` program.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

mod common;
mod data;

use common::{MINIATURE, talent};
use data::data_root;

/// Two rows with two seeds, and a row whose weights file does not exist.
fn plan(folder: &Path) -> std::path::PathBuf {
    let set: Vec<String> = MINIATURE.iter().map(|setting| format!("{setting:?}")).collect();
    let text = format!(
        r#"
        name = "small"
        preset = "tiny"
        seeds = [3, 4]
        set = [{}]
        [[row]]
        name = "baseline"
        set = ["model.image.fusion=none", "loss.cpcl=0.0", "loss.tccl=0.0"]
        [[row]]
        name = "no weights"
        set = ["weights.image=nowhere/dinov2.pth"]
        [[row]]
        name = "all"
        set = []
        "#,
        set.join(", ")
    );
    let file = folder.join("plan.toml");
    std::fs::write(&file, text).unwrap();
    file
}

fn ablate(folder: &Path, extra: &[&str]) -> Output {
    let plan = plan(folder);
    let runs = folder.join("runs");
    let mut args = vec!["ablate", "--plan", plan.to_str().unwrap(), "--runs-dir", runs.to_str().unwrap()];
    args.extend(["--data-root", data_root().to_str().unwrap(), "--device", "cpu", "--threads", "1"]);
    if !extra.contains(&"--max-steps") {
        args.extend(["--max-steps", "2"]);
    }
    args.extend(extra);
    talent(&args)
}

#[test]
fn every_cell_is_trained_once_and_a_failed_one_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let output = ablate(folder.path(), &[]);
    let (table, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains("2 of 6 cells failed: no weights, seed 3; no weights, seed 4"), "{log}");
    assert!(log.contains("nowhere/dinov2.pth"), "{log}");
    for row in ["baseline", "all"] {
        assert!(table.lines().any(|line| line.starts_with(row) && line.contains("  2  ")), "{table}");
    }
    let metrics = |row: &str, seed: u64| -> std::path::PathBuf {
        folder.path().join("runs").join(row).join(format!("seed-{seed}")).join("metrics.json")
    };
    let written = std::fs::metadata(metrics("all", 3)).unwrap().modified().unwrap();

    // The second time, only failed cells are run.
    let again = ablate(folder.path(), &[]);
    let log = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(log.contains("6 cells (3 rows, 2 seeds), 4 of them finished already"), "{log}");
    assert_eq!(std::fs::metadata(metrics("all", 3)).unwrap().modified().unwrap(), written);

    // Cells of one seed see the same data in the same order, and share initial values where possible. Losses differ between
    // rows and between seeds.
    let first_step = |row: &str, seed: u64| -> Value {
        let text = std::fs::read_to_string(metrics(row, seed).with_file_name("records.jsonl")).unwrap();
        serde_json::from_str(text.lines().next().unwrap()).unwrap()
    };
    assert_ne!(first_step("all", 3)["loss"], first_step("all", 4)["loss"]);
    assert_ne!(first_step("all", 3)["loss"], first_step("baseline", 3)["loss"]);
}

#[test]
fn finished_cells_serve_the_ablation_that_made_them_alone() {
    let folder = tempfile::tempdir().unwrap();
    ablate(folder.path(), &[]);

    // Cells that ended early count as unfinished in a longer ablation, and are refused in a shorter one.
    let list = ablate(folder.path(), &["--dry-run", "--max-steps", "3"]);
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    assert_eq!(list.lines().filter(|line| line.ends_with("to do")).count(), 6, "{list}");
    let shorter = ablate(folder.path(), &["--dry-run", "--max-steps", "1"]);
    let log = String::from_utf8_lossy(&shorter.stderr).into_owned();
    assert!(log.contains("it was trained to step 2, and this ablation ends at step 1"), "{log}");

    // Another ablation is refused in the same folder.
    let runs = folder.path().join("runs");
    let other = talent(&[
        "ablate",
        "--axis",
        "gate",
        "--dry-run",
        "--runs-dir",
        runs.to_str().unwrap(),
        "--data-root",
        data_root().to_str().unwrap(),
    ]);
    let log = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(log.contains("it holds an ablation with other rows"), "{log}");
    // A cell whose metrics cannot be read is run again.
    std::fs::write(runs.join("all/seed-3/metrics.json"), "").unwrap();
    let list = ablate(folder.path(), &["--dry-run"]);
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(list.lines().any(|line| line.starts_with("all, seed 3") && line.ends_with("to do")), "{list}");

    // Another config under the same name is refused before anything runs.
    let changed = ablate(folder.path(), &["--set", "train.lr=0.5"]);
    let log = String::from_utf8_lossy(&changed.stderr).into_owned();
    assert!(log.contains("another config (train.lr: 0.001 -> 0.5)"), "{log}");
}

#[test]
fn a_longer_ablation_that_fails_leaves_the_shorter_one_finished() {
    let folder = tempfile::tempdir().unwrap();
    ablate(folder.path(), &["--row", "all", "--seeds", "3"]);
    let cell = folder.path().join("runs/all/seed-3");
    let longer = |extra: &[&str]| {
        let output =
            ablate(folder.path(), &[&["--row", "all", "--seeds", "3", "--max-steps", "3"], extra].concat());
        let (list, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (list.into_owned(), log.into_owned())
    };
    let log_file = std::fs::read(cell.join("log.txt")).unwrap();

    // Another ablation trains the cell.
    let lock = std::fs::File::open(cell.join("cell.lock")).unwrap();
    lock.lock().unwrap();
    let (_, log) = longer(&[]);
    assert!(log.contains("another process is working in this folder"), "{log}");
    assert_eq!(std::fs::read(cell.join("log.txt")).unwrap(), log_file);
    drop(lock);

    // Training does not begin.
    std::fs::remove_file(cell.join("log.txt")).unwrap();
    std::fs::create_dir(cell.join("log.txt")).unwrap();
    let (_, log) = longer(&[]);
    assert!(log.contains("1 of 1 cells failed"), "{log}");
    assert!(longer(&["--dry-run"]).0.contains("to do"));
    let shorter = ablate(folder.path(), &["--row", "all", "--seeds", "3", "--dry-run"]);
    let list = String::from_utf8_lossy(&shorter.stdout).into_owned();
    assert!(list.contains("finished"), "{list}");
}

#[test]
fn a_dry_run_lists_the_cells() {
    let folder = tempfile::tempdir().unwrap();
    let output = ablate(folder.path(), &["--dry-run"]);
    let list = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(list.lines().filter(|line| line.ends_with("to do")).count(), 6, "{list}");
    let some = ablate(folder.path(), &["--dry-run", "--row", "all", "--row", "no weights", "--seeds", "3"]);
    let list = String::from_utf8_lossy(&some.stdout).into_owned();
    let names: Vec<&str> = list.lines().filter_map(|line| line.split(", seed 3").next()).collect();
    assert_eq!(names, ["no weights", "all"], "{list}");
    let unknown = ablate(folder.path(), &["--dry-run", "--row", "al"]);
    let log = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(log.contains("no row `al`, but `all`, `baseline`, `no weights`"), "{log}");
    assert!(!folder.path().join("runs").exists());
}

/// The methods of tuning as rows, each of which trains, is evaluated and stands in the table.
#[test]
fn the_plan_of_tuning_methods() {
    let folder = tempfile::tempdir().unwrap();
    let plan = include_str!("../plans/tuning.toml").replace("preset = \"testbed\"", "preset = \"tiny\"");
    let set: Vec<String> = MINIATURE.iter().map(|setting| format!("{setting:?}")).collect();
    let plan = plan.replacen("seeds", &format!("set = [{}, \"train.regime=pet\"]\nseeds", set.join(", ")), 1);
    let (file, runs) = (folder.path().join("tuning.toml"), folder.path().join("runs"));
    std::fs::write(&file, plan).unwrap();
    let mut args = vec!["ablate", "--plan", file.to_str().unwrap(), "--runs-dir", runs.to_str().unwrap()];
    args.extend(["--data-root", data_root().to_str().unwrap(), "--device", "cpu", "--threads", "1"]);
    args.extend(["--max-steps", "2"]);
    let output = talent(&args);
    let (table, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{log}");
    for row in ["head only", "norms and biases", "prompt", "lora", "adapters"] {
        assert!(table.contains(row), "{row}: {table}");
    }
}

#[test]
fn a_signal_reaches_the_cell_and_the_ablation_goes_on_later() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(folder.path());
    let runs = folder.path().join("runs");
    let mut command = Command::new(env!("CARGO_BIN_EXE_talent"));
    command.args(["ablate", "--plan", plan.to_str().unwrap(), "--runs-dir", runs.to_str().unwrap()]);
    command.args(["--data-root", data_root().to_str().unwrap(), "--device", "cpu", "--threads", "1"]);
    command.args(["--set", "train.epochs=500"]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let records = runs.join("baseline/seed-3/records.jsonl");
    let started = Instant::now();
    while std::fs::read_to_string(&records).unwrap_or_default().lines().count() < 3 {
        assert!(started.elapsed() < Duration::from_secs(120), "the first cell does not begin");
        std::thread::sleep(Duration::from_millis(10));
    }
    // Signal only this process, as a job scheduler may do.
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(143), "{message}");
    assert!(message.contains("the same command goes on"), "{message}");
    let log = std::fs::read_to_string(runs.join("baseline/seed-3/log.txt")).unwrap();
    assert!(log.contains("interrupted; step"), "{log}");
    assert!(!runs.join("all").exists(), "no other cell has begun");
}

#[test]
fn cells_of_several_processes_leave_one_run_each() {
    let folder = tempfile::tempdir().unwrap();
    let output = ablate(folder.path(), &["--nproc", "2", "--seeds", "3"]);
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(log.contains("1 of 3 cells failed: no weights, seed 3"), "{log}");
    assert!(log.contains("nowhere/dinov2.pth"), "{log}");
    for row in ["baseline", "all"] {
        let run = folder.path().join("runs").join(row).join("seed-3");
        let environment: Value =
            serde_json::from_slice(&std::fs::read(run.join("environment.json")).unwrap()).unwrap();
        assert_eq!(environment["processes"], 2);
        let records = std::fs::read_to_string(run.join("records.jsonl")).unwrap();
        assert_eq!(records.matches(r#""kind":"step""#).count(), 2, "{records}");
    }
}

#[test]
fn impossible_numbers_are_refused_before_anything_is_listed() {
    let folder = tempfile::tempdir().unwrap();
    let too_large = (1_u64 << 63).to_string();
    for (options, what) in [
        (["--jobs", "0"], "--jobs"),
        (["--nproc", "0"], "--nproc"),
        (["--nproc", "100000"], "--nproc"),
        (["--seeds", too_large.as_str()], "9223372036854775808"),
        (["--set", "seed=3"], "--seeds"),
    ] {
        let output = ablate(folder.path(), &[&options[..], &["--dry-run"]].concat());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(what), "{options:?}: {text}");
    }
}

#[test]
fn rows_that_are_the_same_run_are_refused() {
    let dry = |axes: &[&str]| {
        let set = ["ablate", "--dry-run", "--set", "model.tuning=lora", "--axis"];
        talent(&[set.as_slice(), axes].concat())
    };
    let output = dry(&["rca-adapter"]);
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(log.contains("are the same run: they differ in nothing that model.tuning=lora uses"), "{log}");
    assert!(dry(&["model.lora.rank=4,8"]).status.success());
}
