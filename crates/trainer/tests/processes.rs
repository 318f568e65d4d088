//! Distributed runs can be resumed with another world size. When a rank is lost, all ranks end and say which one it was.
#![allow(missing_docs)]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

mod common;
mod data;

use common::{MINIATURE, talent};
use data::data_root;
use rustix::process::{Pid, Signal, kill_process};

/// Processes of one run, by rank; killed when dropped.
struct Ranks(Vec<Option<Child>>);

impl Drop for Ranks {
    fn drop(&mut self) {
        for child in self.0.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn arguments(run: &Path, extra: &[&str]) -> Vec<String> {
    let mut args = vec!["train", "--device", "cpu", "--threads", "1"];
    args.extend(["--data-root", data_root().to_str().unwrap(), "--run-dir", run.to_str().unwrap()]);
    let (options, overrides): (Vec<&str>, Vec<&str>) =
        extra.iter().copied().partition(|arg| arg.starts_with("--"));
    args.extend(options.iter().flat_map(|option| option.split(' ')));
    args.push("--set");
    args.extend(MINIATURE);
    args.extend(overrides);
    args.into_iter().map(str::to_owned).collect()
}

impl Ranks {
    /// - own: additional arguments of single ranks
    fn start(size: usize, run: &Path, seconds: u64, extra: &[&str], own: &[(usize, &str)]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let start = |rank: usize| {
            let mut args = arguments(run, extra);
            args.extend(own.iter().filter(|(of, _)| *of == rank).map(|(_, arg)| (*arg).to_owned()));
            let child = Command::new(env!("CARGO_BIN_EXE_talent"))
                .args(args)
                .env_remove("RUST_BACKTRACE")
                .envs([("MASTER_ADDR", "127.0.0.1".to_owned()), ("MASTER_PORT", port.to_string())])
                .envs(
                    [("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", size)]
                        .map(|(k, v)| (k, v.to_string())),
                )
                .env("TALENT_PROCESS_TIMEOUT", seconds.to_string())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn();
            Some(child.unwrap())
        };
        Self((0..size).map(start).collect())
    }

    fn send(&self, rank: usize, signal: Signal) {
        let id = self.0[rank].as_ref().unwrap().id();
        kill_process(Pid::from_raw(id as i32).unwrap(), signal).unwrap();
    }

    /// Exit code and standard error of a rank, which must end within `seconds`.
    fn wait(&mut self, rank: usize, seconds: u64) -> (Option<i32>, String) {
        let end = Instant::now() + Duration::from_secs(seconds);
        let child = self.0[rank].as_mut().unwrap();
        while child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "rank {rank} does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
        let Output { status, stderr, .. } = self.0[rank].take().unwrap().wait_with_output().unwrap();
        (status.code(), String::from_utf8(stderr).unwrap())
    }

    fn succeed(mut self) {
        for rank in 0..self.0.len() {
            let (code, stderr) = self.wait(rank, 120);
            assert_eq!(code, Some(0), "rank {rank}: {stderr}");
        }
    }
}

fn steps(run: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("records.jsonl")).unwrap_or_default();
    let records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    records.filter(|record| record["kind"] == "step").collect()
}

/// Waits until the run has recorded `n` steps.
fn wait_for_steps(run: &Path, n: usize) {
    let end = Instant::now() + Duration::from_secs(60);
    while steps(run).len() < n {
        assert!(Instant::now() < end, "no steps in {}", run.display());
        std::thread::sleep(Duration::from_millis(10));
    }
}

const SECONDS: u64 = 60;
/// Overrides for a long run whose batch size is divisible by two and by three.
const LONG: &[&str] =
    &["train.batch_size=6", "train.epochs=100000", "eval.every_epochs=100000", "--checkpoint-every 5steps"];

#[test]
fn a_run_goes_on_with_another_number_of_processes() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, more, fewer) = (dir.path().join("whole"), dir.path().join("more"), dir.path().join("fewer"));
    let epochs = ["train.epochs=4", "model.decoder.dropout=0.0"];
    let first_half = [&epochs[..], &["--max-steps 6"]].concat();
    let second_half = [&epochs[..], &["--resume auto"]].concat();
    Ranks::start(1, &whole, SECONDS, &epochs, &[]).succeed();
    for (run, [first, second]) in [(&more, [1, 2]), (&fewer, [4, 1])] {
        Ranks::start(first, run, SECONDS, &first_half, &[]).succeed();
        assert_eq!(steps(run).len(), 6);
        Ranks::start(second, run, SECONDS, &second_half, &[]).succeed();
    }
    let expected = steps(&whole);
    for run in [&more, &fewer] {
        let found = steps(run);
        assert_eq!(found.len(), expected.len());
        for (ours, theirs) in found.iter().zip(&expected) {
            assert_eq!(ours["step"], theirs["step"]);
            let total = |record: &Value| record["loss"]["total"].as_f64().unwrap();
            assert!((total(ours) - total(theirs)).abs() < 1e-2, "{ours} {theirs}");
        }
        let folder: Vec<_> =
            std::fs::read_dir(run).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        for name in ["metrics.json", "overlays.png", "predictions.jsonl", "expressions.jsonl", "curves.png"] {
            assert!(folder.iter().any(|file| file == name), "{name} of {folder:?}");
        }
        // One line per expression, in the same order for every world size.
        let keys = |run: &Path| -> Vec<Value> {
            let text = std::fs::read_to_string(run.join("predictions.jsonl")).unwrap();
            text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["sent_id"].clone()).collect()
        };
        assert_eq!(keys(run), keys(&whole));
    }
}

#[test]
fn a_killed_process_is_named_and_nothing_is_lost() {
    for victim in [1, 0] {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        let mut ranks = Ranks::start(3, &run, SECONDS, LONG, &[]);
        wait_for_steps(&run, 7);
        ranks.send(victim, Signal::KILL);
        for rank in (0..3).filter(|rank| *rank != victim) {
            let (code, stderr) = ranks.wait(rank, 40);
            assert_eq!(code, Some(1), "{stderr}");
            let named = match victim {
                0 => "rank 0 is gone".to_owned(),
                victim => format!("rank {victim} shows no sign of life"),
            };
            assert!(stderr.contains(&format!("rank {rank} cannot go on: {named}")), "{stderr}");
            assert_eq!(stderr.matches("error:").count(), 1, "{stderr}");
        }
        // A single process resumes the run at once, in the same folder.
        let mut go_on = LONG.to_vec();
        go_on.extend(["--resume auto", "--max-steps 12"]);
        let output = talent(&arguments(&run, &go_on));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(steps(&run).len(), 12);
    }
}

#[test]
fn a_hanging_process_is_named_within_the_time() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let mut ranks = Ranks::start(3, &run, 8, LONG, &[]);
    wait_for_steps(&run, 7);
    ranks.send(2, Signal::STOP);
    for rank in [0, 1] {
        let (code, stderr) = ranks.wait(rank, 8 + 40);
        assert_eq!(code, Some(1), "{stderr}");
        assert!(
            stderr.contains(&format!("rank {rank} cannot go on: rank 2 shows no sign of life")),
            "{stderr}"
        );
    }
}

#[test]
fn a_leader_that_is_stopped_knows_it_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let mut ranks = Ranks::start(2, &run, 8, LONG, &[]);
    wait_for_steps(&run, 7);
    ranks.send(0, Signal::STOP);
    let (code, stderr) = ranks.wait(1, 8 + 60);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("rank 1 cannot go on: rank 0"), "{stderr}");
    ranks.send(0, Signal::CONT);
    let (code, stderr) = ranks.wait(0, 60);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("rank 0 cannot go on: rank 0, this process, stood still for"), "{stderr}");
    assert!(!stderr.contains("rank 1 shows"), "{stderr}");
}

#[test]
fn another_config_is_refused_by_all() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let mut ranks = Ranks::start(2, &run, SECONDS, &["train.epochs=1"], &[(1, "train.lr=0.5")]);
    for rank in [0, 1] {
        let (code, stderr) = ranks.wait(rank, 60);
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains("rank 1 differs from rank 0: train.lr is 0.5 there"), "{stderr}");
    }
    assert!(!run.exists());
}

#[test]
fn an_error_of_one_is_told_by_all() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    Ranks::start(1, &run, SECONDS, &["train.epochs=1"], &[]).succeed();
    let mut ranks = Ranks::start(2, &run, SECONDS, &["train.epochs=1"], &[]);
    let (code, stderr) = ranks.wait(0, 60);
    assert!(code == Some(1) && stderr.contains("already holds a run"), "{stderr}");
    let (code, stderr) = ranks.wait(1, 60);
    assert!(code == Some(1) && stderr.contains("rank 1 cannot go on: rank 0 failed:"), "{stderr}");
    assert!(stderr.contains("already holds a run"), "{stderr}");
}

#[test]
fn a_batch_that_cannot_be_divided_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut ranks = Ranks::start(2, &dir.path().join("run"), SECONDS, &["train.batch_size=7"], &[]);
    let (code, stderr) = ranks.wait(0, 60);
    assert!(
        code == Some(1) && stderr.contains("7 samples a step cannot be divided among 2 processes"),
        "{stderr}"
    );
}

#[test]
fn a_signal_to_one_stops_all_after_the_same_step() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let mut ranks = Ranks::start(2, &run, SECONDS, LONG, &[]);
    wait_for_steps(&run, 7);
    ranks.send(1, Signal::TERM);
    let (code, stderr) = ranks.wait(0, 60);
    assert!(code == Some(143) && stderr.contains("Go on with the same command"), "{stderr}");
    assert_eq!(ranks.wait(1, 60).0, Some(143));
    let n = steps(&run).len();
    let limit = format!("--max-steps {}", n + 2);
    let mut go_on = LONG.to_vec();
    go_on.extend(["--resume auto", &limit]);
    Ranks::start(2, &run, SECONDS, &go_on, &[]).succeed();
    assert_eq!(steps(&run).len(), n + 2);
}
