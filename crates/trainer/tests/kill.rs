//! Runs that are killed repeatedly and resumed end with the same results as an uninterrupted run.
//!
//! `TALENT_KILLS=50 cargo test --release --package trainer --test kill` kills fifty times; the default is six.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

mod common;
mod data;

use common::{MINIATURE, talent};
use data::data_root;

fn training(run: &Path) -> Vec<String> {
    let mut args = vec!["train", "--device", "cpu", "--threads", "1", "--resume", "auto"];
    args.extend(["--checkpoint-every", "1steps", "--data-root", data_root().to_str().unwrap()]);
    args.extend(["--run-dir", run.to_str().unwrap(), "--set"]);
    args.extend(MINIATURE);
    args.extend(["train.epochs=6", "model.decoder.dropout=0.1"]);
    args.into_iter().map(str::to_owned).collect()
}

/// How a run is started; results must not depend on it.
#[derive(Debug, Clone, Copy)]
enum Start {
    Plain,
    /// The run's folder is a symlink.
    ThroughLink,
    /// Standard error is closed.
    StderrClosed,
}

/// - run: the real folder, not a symlink
fn start(run: &Path, how: Start) -> Child {
    let mut command = match how {
        Start::StderrClosed => {
            let mut shell = Command::new("sh");
            shell.args(["-c", "exec \"$0\" \"$@\" 2>&-", env!("CARGO_BIN_EXE_talent")]);
            shell
        }
        _ => Command::new(env!("CARGO_BIN_EXE_talent")),
    };
    command.args(training(&named(run, how))).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// The path of a run's folder on the command line. Creates the symlink if there is to be one.
fn named(run: &Path, how: Start) -> PathBuf {
    if !matches!(how, Start::ThroughLink) {
        return run.to_path_buf();
    }
    let link = run.with_extension("link");
    if !link.is_symlink() {
        std::fs::create_dir(run).unwrap();
        std::os::unix::fs::symlink(run, &link).unwrap();
    }
    link
}

fn is_writing(run: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(run.join("checkpoints")) else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().contains(".unfinished-talent-"))
}

/// Kills the process after the time `after` or, with `in_writing`, as soon as it then writes a checkpoint. False if it ended
/// before.
fn kill(mut child: Child, run: &Path, in_writing: bool, after: Duration) -> bool {
    let started = Instant::now();
    loop {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        let late = started.elapsed() >= after;
        if late && (!in_writing || is_writing(run)) {
            child.kill().unwrap();
            return !child.wait().unwrap().success();
        }
        std::thread::sleep(Duration::from_micros(if in_writing { 100 } else { 2000 }));
    }
}

fn without_runtime(text: &str) -> String {
    let parse = |line: &str| {
        let mut value: Value = serde_json::from_str(line).unwrap();
        value.as_object_mut().unwrap().remove("runtime");
        format!("{value}\n")
    };
    text.lines().map(parse).collect()
}

/// A report without the name of the run's folder, which is its title and its heading.
fn without_name(page: &str) -> String {
    let (head, rest) = page.split_once("<title>").unwrap();
    let (name, rest) = rest.split_once("</title>").unwrap();
    let heading = format!("<h1>{name}</h1>");
    assert!(rest.contains(&heading), "the page's heading is not its title, {name}");
    format!("{head}{}", rest.replace(&heading, ""))
}

/// All files that a run writes, except TensorBoard events, `environment.json` and run times.
fn results(run: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for folder in [run.to_path_buf(), run.join("checkpoints")] {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() || name.starts_with("events.") || name == "environment.json" {
                continue;
            }
            let mut bytes = std::fs::read(&path).unwrap();
            if name == "records.jsonl" {
                bytes = without_runtime(&String::from_utf8(bytes).unwrap()).into_bytes();
            } else if name == "report.html" {
                bytes = without_name(&String::from_utf8(bytes).unwrap()).into_bytes();
            } else if name == "metrics.json" {
                let mut value: Value = serde_json::from_slice(&bytes).unwrap();
                value.as_object_mut().unwrap().remove("runtime");
                bytes = value.to_string().into_bytes();
            }
            found.insert(path.strip_prefix(run).unwrap().to_path_buf(), bytes);
        }
    }
    found
}

/// The first pair of lines that differ; empty if the contents differ in another way, for example in length.
fn first_difference(found: &[u8], expected: &[u8]) -> Option<(String, String)> {
    if found == expected {
        return None;
    }
    let [found, expected] = [found, expected].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let pair = found.lines().zip(expected.lines()).find(|(a, b)| a != b);
    pair.map(|(a, b)| (a.chars().take(400).collect(), b.chars().take(400).collect()))
        .or(Some(Default::default()))
}

#[test]
fn a_killed_run_ends_like_an_uninterrupted_one() {
    let n_kills: usize = std::env::var("TALENT_KILLS").map_or(6, |n| n.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    let started = Instant::now();
    assert!(talent(&training(&whole)).status.success());
    let duration = started.elapsed();
    let expected = results(&whole);

    let mut rng = StdRng::seed_from_u64(0);
    let (mut killed, mut in_writing, mut n_runs) = (0, 0, 0);
    while killed < n_kills {
        let run = folder.path().join(format!("killed-{n_runs}"));
        let how = [Start::Plain, Start::ThroughLink, Start::StderrClosed][n_runs % 3];
        n_runs += 1;
        let mut finished = false;
        while !finished && killed < n_kills {
            let writing = rng.random_bool(0.5);
            // Kill times cover the whole length of a run, so that its start and its end are hit as well.
            let after = duration.mul_f64(rng.random_range(0.0..if writing { 0.6 } else { 1.0 }));
            if kill(start(&run, how), &run, writing, after) {
                killed += 1;
                in_writing += usize::from(writing);
            } else {
                finished = true;
            }
        }
        if !finished {
            assert!(talent(&training(&named(&run, how))).status.success());
        }
        let found = results(&run);
        let names = |results: &BTreeMap<PathBuf, Vec<u8>>| results.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&found), names(&expected));
        for (name, bytes) in &expected {
            let difference = first_difference(&found[name], bytes);
            assert!(difference.is_none(), "{} differs after {killed} kills: {difference:?}", name.display());
        }
    }
    println!("{killed} kills over {n_runs} runs, {in_writing} of them while a checkpoint was being written");
}
