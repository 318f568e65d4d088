//! Real faults of the machine and of the data. Each ends a run with one clear error and exit code 1, and leaves what was
//! written before unchanged. Tests that need missing privileges report that they are skipped.
#![allow(missing_docs)]

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

mod common;
mod data;

use common::{MINIATURE, talent};
use data::data_root;

const PROGRAM: &str = env!("CARGO_BIN_EXE_talent");

/// Arguments of a short run.
fn training(run: &Path, data_root: &Path, extra: &[&str]) -> Vec<String> {
    let mut args: Vec<String> =
        ["train", "--device", "cpu", "--threads", "1", "--checkpoint-every", "1steps"]
            .map(str::to_owned)
            .to_vec();
    args.extend(["--data-root".into(), data_root.to_str().unwrap().into()]);
    args.extend(["--run-dir".into(), run.to_str().unwrap().into(), "--set".into()]);
    args.extend(MINIATURE.iter().chain(extra).map(|arg| (*arg).to_owned()));
    args
}

/// Removes `RUST_BACKTRACE`, so that only the error is printed.
fn without_backtrace(command: &mut Command) -> &mut Command {
    command.env_remove("RUST_BACKTRACE")
}

/// Runs the program under a wrapper that first sets limits or permissions.
fn run_under(wrapper: &[&str], args: &[String]) -> Output {
    let (first, rest) = wrapper.split_first().unwrap();
    without_backtrace(Command::new(first).args(rest).arg(PROGRAM).args(args)).output().unwrap()
}

/// The one line that ends a failed run.
#[track_caller]
fn error_of(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let errors: Vec<&str> = text.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{text}");
    assert!(!text.contains("panicked"), "{text}");
    errors[0].to_owned()
}

/// Asserts that records are whole lines, and that all training states except unfinished ones can be read.
fn assert_intact(run_dir: &Path) {
    let records = std::fs::read_to_string(run_dir.join("records.jsonl")).unwrap();
    let whole = records.rsplit_once('\n').map_or("", |(whole, _)| whole);
    assert!(whole.lines().count() > 0);
    for line in whole.lines() {
        serde_json::from_str::<Value>(line).unwrap();
    }
    for entry in std::fs::read_dir(run_dir.join("checkpoints")).unwrap() {
        let path = entry.unwrap().path();
        if !path.to_string_lossy().contains(".unfinished-talent-") {
            safetensors::SafeTensors::deserialize(&std::fs::read(path).unwrap()).unwrap();
        }
    }
}

/// A temporary file system; unmounted when dropped.
struct Mount(PathBuf);

impl Mount {
    /// `None`, with a message, if this process may not mount.
    fn new(test: &str, size: &str) -> Option<(tempfile::TempDir, Self)> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(folder.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => {
                let mount = Self(folder.path().to_path_buf());
                Some((folder, mount))
            }
            Ok(output) => skip(test, &String::from_utf8_lossy(&output.stderr)),
            Err(error) => skip(test, &error.to_string()),
        }
    }

    fn remount(&self, options: &str) {
        let status =
            Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.0).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// Reports a skipped test on standard error, bypassing the test harness's capture: a test that did not run must not look as if
/// it had.
fn skip<T>(test: &str, why: &str) -> Option<T> {
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {}", why.trim());
    None
}

#[test]
fn a_full_disk() {
    // A training state takes about 10 MB: one fits, a second does not.
    let Some((folder, mount)) = Mount::new("a_full_disk", "16m") else { return };
    let run_dir = folder.path().join("run");
    let args = training(&run_dir, data_root(), &[]);
    let error = error_of(&talent(&args));
    assert!(error.contains("No space left on device") && error.contains("checkpoints/step-"), "{error}");
    assert_intact(&run_dir);
    // With more space the run can be resumed.
    mount.remount("size=200m");
    let mut again = args;
    again.extend(["--resume", "auto", "--max-steps", "3"].map(str::to_owned));
    let output = talent(&again);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stderr).contains("resuming from"));
}

/// The same faults when the run's folder is a symlink and standard error is closed.
#[test]
fn faults_through_links_and_with_standard_error_closed() {
    let closed = |limits: &str| format!("{limits}exec \"$0\" \"$@\" 2>&- >&-");
    let run = |script: &str, args: &[String]| {
        let status = Command::new("sh").args(["-c", script, PROGRAM]).args(args).status().unwrap();
        assert_eq!(status.code(), Some(1), "{script}");
    };
    let root = tempfile::tempdir().unwrap();
    let linked = |name: &str, folder: &Path| {
        let link = root.path().join(name);
        std::os::unix::fs::symlink(folder, &link).unwrap();
        link
    };
    let go_on = |link: &Path| {
        let mut args = training(link, data_root(), &[]);
        args.extend(["--resume", "auto", "--max-steps", "3"].map(str::to_owned));
        let output = talent(&args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };

    let limited = tempfile::tempdir().unwrap();
    let link = linked("limited", limited.path());
    run(&closed("ulimit -f 4000; "), &training(&link, data_root(), &[]));
    assert_intact(limited.path());
    go_on(&link);

    let infinite = tempfile::tempdir().unwrap();
    let link = linked("infinite", infinite.path());
    run(&closed(""), &training(&link, data_root(), &["train.lr=1e30", "train.clip_norm=0"]));
    assert_intact(infinite.path());
    assert!(infinite.path().join("nonfinite.safetensors").is_file());

    let test = "faults_through_links_and_with_standard_error_closed";
    let Some((disk, mount)) = Mount::new(test, "16m") else { return };
    let link = linked("full", disk.path());
    run(&closed(""), &training(&link, data_root(), &[]));
    assert_intact(disk.path());
    mount.remount("size=200m");
    go_on(&link);
}

#[test]
fn predictions_on_a_full_disk_are_whole_or_not_there() {
    let test = "predictions_on_a_full_disk_are_whole_or_not_there";
    let root = tempfile::tempdir().unwrap();
    let run_dir = root.path().join("run");
    let mut args = training(&run_dir, data_root(), &[]);
    args.extend(["--max-steps", "1"].map(str::to_owned));
    assert!(talent(&args).status.success());
    // Noise does not compress: overlay and mask take more than the 3 MB available.
    let picture = root.path().join("noise.png");
    let mut state = 1_u32;
    let noise = image::RgbImage::from_fn(1600, 1200, |_, _| {
        let mut byte = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        image::Rgb([byte(), byte(), byte()])
    });
    noise.save(&picture).unwrap();
    let Some((folder, mount)) = Mount::new(test, "3m") else { return };
    let out = folder.path().join("out");
    let model = run_dir.join("checkpoints/best.safetensors");
    let args = ["predict", "--text", "the red circle", "--device", "cpu", "--checkpoint"].map(str::to_owned);
    let paths = [model.as_path(), Path::new("--image"), &picture, Path::new("--out"), &out];
    let args: Vec<String> =
        args.into_iter().chain(paths.iter().map(|path| path.to_str().unwrap().to_owned())).collect();
    let error = error_of(&talent(&args));
    assert!(error.contains("No space left on device") && error.contains("overlay.png"), "{error}");
    let left: Vec<_> = std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
    mount.remount("size=100m");
    assert!(talent(&args).status.success());
    image::open(out.join("overlay.png")).unwrap();
    image::open(out.join("mask.png")).unwrap();
}

#[test]
fn a_folder_mounted_elsewhere_is_the_same() {
    let Some((folder, _mount)) = Mount::new("a_folder_mounted_elsewhere_is_the_same", "200m") else { return };
    let elsewhere = tempfile::tempdir().unwrap();
    let bound = Command::new("mount").arg("--bind").arg(folder.path()).arg(elsewhere.path()).status();
    assert!(bound.unwrap().success());
    let _unmounted = Mount(elsewhere.path().to_path_buf());
    let run_dir = folder.path().join("run");
    let go_on = |steps: &str, resume: &[&str]| {
        let mut args = training(&run_dir, data_root(), &["train.epochs=9"]);
        args.extend(["--max-steps", steps].iter().chain(resume).map(|arg| (*arg).to_owned()));
        let output = talent(&args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    go_on("3", &[]);
    go_on("5", &["--resume", elsewhere.path().join("run").to_str().unwrap()]);
    let records = std::fs::read_to_string(run_dir.join("records.jsonl")).unwrap();
    assert_eq!(records.lines().filter(|line| line.contains("\"kind\":\"step\"")).count(), 5);
}

#[test]
fn a_read_only_file_system() {
    let Some((folder, mount)) = Mount::new("a_read_only_file_system", "16m") else { return };
    mount.remount("ro");
    let run_dir = folder.path().join("run");
    let error = error_of(&talent(&training(&run_dir, data_root(), &[])));
    assert!(error.contains("Read-only file system") && error.contains(run_dir.to_str().unwrap()), "{error}");
}

#[test]
fn a_limit_on_the_size_of_files() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = folder.path().join("run");
    // The unit is 512 or 1024 bytes, depending on the shell; either limit is below the size of a training state.
    let wrapper = ["sh", "-c", "ulimit -f 4000; exec \"$0\" \"$@\""];
    let error = error_of(&run_under(&wrapper, &training(&run_dir, data_root(), &[])));
    assert!(error.contains("File too large") && error.contains("checkpoints/step-"), "{error}");
    assert_intact(&run_dir);
}

#[test]
fn no_permission() {
    if Command::new("id").arg("-u").output().unwrap().stdout != b"0\n" {
        skip::<()>("no_permission", "it takes root to become somebody else");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // Other users may have no access to the program and its libraries.
    let nobody = ["setpriv", "--reuid", "65534", "--clear-groups"];
    let reachable = run_under(&nobody, &["--version".to_owned()]);
    if !reachable.status.success() {
        skip::<()>("no_permission", "another user cannot start the program here");
        return;
    }
    let run_dir = folder.path().join("run");
    let shared = tempfile::tempdir().unwrap();
    let args = training(&run_dir, shared.path(), &[]);
    let error = error_of(&run_under(&nobody, &args));
    assert!(error.contains("Permission denied"), "{error}");
}

fn spawn(args: &[String]) -> Child {
    let mut command = Command::new(PROGRAM);
    without_backtrace(command.args(args)).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits until a run has written `n` records.
fn wait_for_records(run_dir: &Path, n: usize) {
    let started = Instant::now();
    let count = || std::fs::read_to_string(run_dir.join("records.jsonl")).unwrap_or_default().lines().count();
    while count() < n {
        assert!(started.elapsed() < Duration::from_secs(120), "the run does not begin");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_folder_is_removed_while_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = folder.path().join("run");
    let child = spawn(&training(&run_dir, data_root(), &["train.epochs=500"]));
    wait_for_records(&run_dir, 2);
    // The run may write into the folder while it is being removed.
    while std::fs::remove_dir_all(&run_dir).is_err() {}
    let error = error_of(&child.wait_with_output().unwrap());
    assert!(error.contains(run_dir.to_str().unwrap()), "{error}");
}

#[test]
fn two_processes_on_one_folder() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = folder.path().join("run");
    let args = training(&run_dir, data_root(), &["train.epochs=500"]);
    let mut first = spawn(&args);
    wait_for_records(&run_dir, 1);
    let mut second = args.clone();
    second.extend(["--resume", "auto"].map(str::to_owned));
    let error = error_of(&talent(&second));
    assert!(error.contains("another process is working in this folder"), "{error}");
    first.kill().unwrap();
    first.wait().unwrap();
    assert_intact(&run_dir);
    // The lock was released when its process ended.
    second.extend(["--max-steps", "2"].map(str::to_owned));
    let _ = std::fs::remove_dir_all(run_dir.join("checkpoints"));
    assert!(talent(&second).status.success());
}

#[test]
fn signals_end_a_run_with_its_step_saved() {
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        let folder = tempfile::tempdir().unwrap();
        let run_dir = folder.path().join("run");
        let mut args = training(&run_dir, data_root(), &["train.epochs=500"]);
        let child = spawn(&args);
        wait_for_records(&run_dir, 3);
        let pid = child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{message}");
        assert!(
            message.contains("--resume auto") && message.contains(run_dir.to_str().unwrap()),
            "{message}"
        );
        assert_intact(&run_dir);
        let n_steps = std::fs::read_to_string(run_dir.join("records.jsonl")).unwrap().lines().count();
        args.extend(["--resume", "auto", "--max-steps", &(n_steps + 1).to_string()].map(str::to_owned));
        let output = talent(&args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let resumed = format!("at step {n_steps}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(&resumed), "nothing is done twice");
    }
}

#[test]
fn a_second_signal_ends_a_run_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = folder.path().join("run");
    let mut child = spawn(&training(&run_dir, data_root(), &["train.epochs=500"]));
    wait_for_records(&run_dir, 1);
    let pid = child.id().to_string();
    // The process is stopped, so that both signals find it in the same step.
    for signal in ["-STOP", "-INT", "-TERM", "-CONT"] {
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
    let status = child.wait().unwrap();
    assert!(matches!(status.code(), Some(130 | 143)), "{status:?} {:?}", status.signal());
}

#[test]
fn memory_runs_out() {
    let wrapper = ["sh", "-c", "ulimit -v 12000000; exec \"$0\" \"$@\""];
    let args = [
        "bench",
        "forward",
        "--preset",
        "tiny",
        "--batch-size",
        "20000",
        "--device",
        "cpu",
        "--threads",
        "1",
    ];
    let error = error_of(&run_under(&wrapper, &args.map(str::to_owned)));
    assert!(error.to_lowercase().contains("memory"), "{error}");
    assert!(!error.contains("frame #"), "{error}");
}

#[test]
fn a_loss_that_is_not_finite() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = folder.path().join("run");
    let error = error_of(&talent(&training(&run_dir, data_root(), &["train.lr=1e30", "train.clip_norm=0"])));
    for part in ["not finite", "total", "refshapes/", "nonfinite.safetensors"] {
        assert!(error.contains(part), "{error}");
    }
    assert_intact(&run_dir);
    let bytes = std::fs::read(run_dir.join("nonfinite.safetensors")).unwrap();
    let dump = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(dump.tensor("batch/images").unwrap().shape(), [8, 3, 32, 32]);
    for name in
        ["batch/masks", "batch/words", "batch/negatives", "batch/valid", "rng/cpu", "model/proj.txt.weight"]
    {
        dump.tensor(name).unwrap();
    }
}

/// Copies the data with one broken picture; returns its file name.
fn broken_data(root: &Path) -> String {
    let copied = Command::new("cp").arg("-r").arg(data_root().join("refshapes")).arg(root).status().unwrap();
    assert!(copied.success());
    let mut pictures = walk(&root.join("refshapes/images"));
    pictures.sort();
    // Pictures of the training split come first.
    std::fs::write(&pictures[0], "no picture").unwrap();
    pictures[0].file_name().unwrap().to_string_lossy().into_owned()
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn samples_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("data");
    std::fs::create_dir(&root).unwrap();
    let broken = broken_data(&root);
    let run_dir = |name: &str| folder.path().join(name);
    let error =
        error_of(&talent(&training(&run_dir("stop"), &root, &["train.epochs=1", "train.batch_size=5"])));
    assert!(error.contains(&broken), "{error}");

    let skipping = ["train.epochs=1", "train.batch_size=5", "data.on_error=skip"];
    let output = talent(&training(&run_dir("skip"), &root, &skipping));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{message}");
    assert!(message.contains("is skipped") && message.contains(&broken), "{message}");
    let metrics: Value =
        serde_json::from_str(&std::fs::read_to_string(run_dir("skip").join("metrics.json")).unwrap())
            .unwrap();
    let listed = metrics["bad_samples"].as_array().unwrap();
    assert!(!listed.is_empty() && listed.iter().all(|name| name.as_str().unwrap().starts_with("refshapes/")));
    let records = std::fs::read_to_string(run_dir("skip").join("records.jsonl")).unwrap();
    assert!(records.lines().any(|line| line.contains("bad_samples") && line.contains(&broken)));

    let limited = [skipping.as_slice(), &["data.max_bad_samples=0"]].concat();
    let error = error_of(&talent(&training(&run_dir("limit"), &root, &limited)));
    assert!(error.contains("data.max_bad_samples") && error.contains(&broken), "{error}");
}
