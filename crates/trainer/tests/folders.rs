//! A run's folder: it is recognised under any path, and files in it that do not belong to the run are left alone.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

mod common;
mod data;

use common::{MINIATURE, talent};
use data::data_root;

/// Arguments of a run of `n_steps` steps, with a training state every three.
fn training(run: &Path, n_steps: u64, options: &[&str]) -> Vec<String> {
    let steps = n_steps.to_string();
    let mut args = vec!["train", "--device", "cpu", "--threads", "1", "--checkpoint-every", "3steps"];
    args.extend(["--keep-checkpoints", "9"]);
    args.extend(["--max-steps", &steps, "--data-root", data_root().to_str().unwrap()]);
    args.extend(["--run-dir", run.to_str().unwrap()]);
    args.extend(options);
    args.push("--set");
    args.extend(MINIATURE);
    args.push("train.epochs=9");
    args.into_iter().map(str::to_owned).collect()
}

#[track_caller]
fn succeed(args: &[String]) -> String {
    let output = talent(args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn error_of(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    text
}

fn steps(run: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(run.join("records.jsonl")).unwrap();
    let records = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    records.filter(|record| record["kind"] == "step").map(|record| record["step"].as_u64().unwrap()).collect()
}

/// All files in a folder, recursively, with their contents.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(contents(&path)),
            false => drop(found.insert(path.clone(), std::fs::read(&path).unwrap())),
        }
    }
    found
}

fn state(run: &Path, step: u64) -> PathBuf {
    run.join(format!("checkpoints/step-{step:08}.state.safetensors"))
}

#[test]
fn a_folder_is_the_same_under_any_name() {
    let root = tempfile::tempdir().unwrap();
    let run = root.path().join("a");
    std::fs::create_dir(root.path().join("other")).unwrap();
    symlink(&run, root.path().join("link")).unwrap();
    succeed(&training(&run, 3, &[]));
    let named = |text: &str| format!("{}/{text}", root.path().display());
    let names = [
        named("a"),
        named("a/"),
        named("other/../a"),
        named("link"),
        named("a/checkpoints/step-00000015.state.safetensors"),
        named("link/checkpoints/../checkpoints/step-00000018.state.safetensors"),
    ];
    for (turn, name) in (2..).zip(&names) {
        let said = succeed(&training(&run, 3 * turn, &["--resume", name]));
        assert!(said.contains(&format!("at step {}", 3 * (turn - 1))), "{name}: {said}");
        assert_eq!(steps(&run), (1..=3 * turn).collect::<Vec<_>>(), "{name}");
    }
    // Both paths relative to the current folder.
    let mut args = training(Path::new("a"), 24, &["--resume", "./other/../a"]);
    args[0] = "train".into();
    let output =
        Command::new(env!("CARGO_BIN_EXE_talent")).args(&args).current_dir(root.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(steps(&run), (1..=24).collect::<Vec<_>>());
}

#[test]
fn another_runs_state_is_refused_before_anything_is_touched() {
    let root = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| root.path().join(name));
    succeed(&training(&a, 6, &[]));
    succeed(&training(&b, 12, &[]));
    let before = contents(&b);
    for resume in [a.clone(), state(&a, 6)] {
        let error = error_of(&talent(&training(&b, 15, &["--resume", resume.to_str().unwrap()])));
        assert!(error.contains("is not a state of") && error.contains("already holds a run"), "{error}");
        assert_eq!(contents(&b), before);
    }
    let said = succeed(&training(&b, 15, &["--resume", "auto"]));
    assert!(said.contains("at step 12"), "{said}");
    // A new folder accepts that state.
    let c = root.path().join("c");
    succeed(&training(&c, 9, &["--resume", a.to_str().unwrap()]));
    assert_eq!(steps(&c), [7, 8, 9]);
    succeed(&training(&c, 12, &["--resume", "auto"]));
    assert_eq!(steps(&c), [7, 8, 9, 10, 11, 12]);
}

#[test]
fn an_earlier_state_takes_the_later_ones_and_their_best_model_out_of_the_way() {
    let root = tempfile::tempdir().unwrap();
    let run = root.path().join("a");
    succeed(&training(&run, 6, &[]));
    let said = succeed(&training(&run, 4, &["--resume", state(&run, 3).to_str().unwrap()]));
    assert!(said.contains("is of a later step and is set aside"), "{said}");
    assert!(!state(&run, 6).exists() && run.join("checkpoints/best.safetensors").is_file());
    let mut aside = state(&run, 6).into_os_string();
    aside.push(".superseded");
    assert!(Path::new(&aside).is_file() && run.join("checkpoints/best.safetensors.superseded").is_file());
    assert_eq!(steps(&run), [1, 2, 3, 4]);
}

#[test]
fn what_was_set_aside_before_stays() {
    let root = tempfile::tempdir().unwrap();
    let run = root.path().join("a");
    succeed(&training(&run, 6, &[]));
    let first = std::fs::read(state(&run, 6)).unwrap();
    for _ in 0..2 {
        succeed(&training(&run, 6, &["--resume", state(&run, 3).to_str().unwrap()]));
    }
    let aside = |suffix: &str| {
        let mut name = state(&run, 6).into_os_string();
        name.push(suffix);
        PathBuf::from(name)
    };
    assert_eq!(std::fs::read(aside(".superseded")).unwrap(), first);
    assert!(aside(".superseded-2").is_file());
}

#[test]
fn a_state_of_another_config_in_the_folder_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| root.path().join(name));
    succeed(&training(&a, 6, &[]));
    succeed(&training(&b, 9, &["--seed", "7"]));
    std::fs::copy(state(&b, 9), state(&a, 9)).unwrap();
    let before = contents(&a);
    let args = |run: &Path| -> Vec<String> {
        let (run, data) = (run.to_str().unwrap(), data_root().to_str().unwrap());
        let args = ["train", "--device", "cpu", "--data-root", data, "--run-dir", run, "--max-steps", "12"];
        args.iter().chain(&["--resume", "auto"]).map(|arg| (*arg).to_owned()).collect()
    };
    let error = error_of(&talent(&args(&a)));
    assert!(error.contains("its config is not that of") && error.contains("seed: 0 -> 7"), "{error}");
    assert_eq!(contents(&a), before);
}

#[test]
fn a_state_that_is_not_what_its_name_says_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let run = root.path().join("a");
    succeed(&training(&run, 6, &[]));
    std::fs::copy(state(&run, 3), state(&run, 99)).unwrap();
    let said = succeed(&training(&run, 7, &["--resume", "auto"]));
    assert!(said.contains("its name says step 99, and it holds the state of step 3"), "{said}");
    assert!(said.contains("at step 6"), "{said}");
    std::fs::copy(state(&run, 3), state(&run, 99)).unwrap();
    let error = error_of(&talent(&training(&run, 8, &["--resume", state(&run, 99).to_str().unwrap()])));
    assert!(error.contains("its name says step 99"), "{error}");
}

#[test]
fn only_counted_records_matter_and_they_must_be_whole() {
    let root = tempfile::tempdir().unwrap();
    let run = root.path().join("a");
    succeed(&training(&run, 6, &[]));
    let records = run.join("records.jsonl");
    for garbage in [&b"\xff\xfe\x00 half a line"[..], b"\n\n\0\0\0\0", b"{\"kind\": \"step\"}\n[]\n"] {
        let mut bytes = std::fs::read(&records).unwrap();
        bytes.extend(garbage);
        std::fs::write(&records, &bytes).unwrap();
        let n = steps_of_state(&run);
        succeed(&training(&run, n + 1, &["--resume", "auto"]));
        assert_eq!(steps(&run), (1..=n + 1).collect::<Vec<_>>());
    }
    let whole = std::fs::read_to_string(&records).unwrap();
    let third = whole.lines().nth(2).unwrap();
    let before = |bytes: &[u8]| {
        std::fs::write(&records, bytes).unwrap();
        let before = contents(&run);
        let earlier = state(&run, 6);
        let mut error = String::new();
        // Resuming from an earlier state, which counts fewer records, sets nothing aside either.
        for resume in [earlier.to_str().unwrap(), "auto"] {
            error = error_of(&talent(&training(&run, 20, &["--resume", resume])));
            assert_eq!(contents(&run), before, "nothing is touched");
        }
        error
    };
    for damaged in ["", "{\"kind\": \"ste", "[]", "null", &third.replace("\"step\":3", "\"step\":4")] {
        let error = before(whole.replacen(third, damaged, 1).as_bytes());
        assert!(error.contains("records.jsonl: line 3 is damaged"), "{damaged}: {error}");
    }
    let mut zeros = whole.clone().into_bytes();
    let at = whole.find(third).unwrap();
    zeros[at..at + 20].fill(0);
    assert!(before(&zeros).contains("records.jsonl: line 3 is damaged"));
    let short: String = whole.lines().take(4).map(|line| format!("{line}\n")).collect();
    assert!(before(short.as_bytes()).contains("it holds 4 records, but the checkpoint was written after"));
}

/// The step of the last training state.
fn steps_of_state(run: &Path) -> u64 {
    let names = std::fs::read_dir(run.join("checkpoints")).unwrap().map(|entry| entry.unwrap().file_name());
    let steps = names.filter_map(|name| {
        name.to_str()?.strip_prefix("step-")?.strip_suffix(".state.safetensors")?.parse::<u64>().ok()
    });
    steps.max().unwrap()
}

#[test]
fn files_of_the_users_stay() {
    let root = tempfile::tempdir().unwrap();
    let run = root.path().join("a");
    std::fs::create_dir_all(run.join("x.tmp-1")).unwrap();
    for name in ["notes.tmp-draft.txt", "metrics.json.tmp-12"] {
        std::fs::write(run.join(name), name).unwrap();
    }
    succeed(&training(&run, 3, &[]));
    for name in ["notes.tmp-draft.txt", "metrics.json.tmp-12"] {
        assert_eq!(std::fs::read_to_string(run.join(name)).unwrap(), name);
    }
    assert!(run.join("x.tmp-1").is_dir());
}

#[test]
fn a_lock_that_is_no_file_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let precious = root.path().join("precious.txt");
    std::fs::write(&precious, "keep").unwrap();
    let [linked, piped] = ["linked", "piped"].map(|name| root.path().join(name));
    for run in [&linked, &piped] {
        std::fs::create_dir(run).unwrap();
    }
    symlink(&precious, linked.join("run.lock")).unwrap();
    assert!(Command::new("mkfifo").arg(piped.join("run.lock")).status().unwrap().success());
    for (run, what) in [(&linked, "this is a link"), (&piped, "this is not a file")] {
        let error = error_of(&talent(&training(run, 3, &[])));
        assert!(error.contains("run.lock") && error.contains(what), "{error}");
    }
    assert_eq!(std::fs::read_to_string(&precious).unwrap(), "keep");
}

#[test]
fn a_name_that_is_no_utf_8_is_a_name() {
    use std::os::unix::ffi::OsStringExt;
    let root = tempfile::tempdir().unwrap();
    let run = root.path().join(std::ffi::OsString::from_vec(b"run-\xff\xfe".to_vec()));
    let mut args: Vec<std::ffi::OsString> =
        training(Path::new("RUN"), 3, &[]).into_iter().map(Into::into).collect();
    let at = args.iter().position(|arg| arg == "RUN").unwrap();
    args[at] = run.clone().into();
    let output = talent(&args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(steps(&run), [1, 2, 3]);
    assert!(run.join("metrics.json").is_file());
}

#[test]
fn a_training_state_is_evaluated_and_exported_like_the_model_in_it() {
    let root = tempfile::tempdir().unwrap();
    let run = root.path().join("a");
    succeed(&training(&run, 3, &[]));
    let eval = |file: &Path| {
        let args = ["eval", "--json", "--device", "cpu", "--data-root", data_root().to_str().unwrap()];
        let mut args: Vec<String> = args.into_iter().map(str::to_owned).collect();
        args.extend(["--checkpoint".into(), file.display().to_string()]);
        let output = talent(&args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["splits"].clone()
    };
    let last = run.join("checkpoints/last.safetensors");
    assert_eq!(eval(&state(&run, 3)), eval(&last));
    let [of_state, of_model] = [state(&run, 3), last].map(|file| {
        let to = root.path().join("official.safetensors");
        succeed(
            &["export", "--checkpoint", file.to_str().unwrap(), "--to", to.to_str().unwrap()]
                .map(str::to_owned),
        );
        std::fs::read(to).unwrap()
    });
    assert!(of_state == of_model);
}

#[test]
fn what_is_no_state_of_ours_does_not_stop_a_run() {
    use std::os::unix::ffi::OsStrExt;
    let root = tempfile::tempdir().unwrap();
    // A folder name that is not UTF-8, and a folder in it that is named like a training state.
    let run = root.path().join(std::ffi::OsStr::from_bytes(b"a\xff"));
    let named_like_a_state = state(&run, 99);
    std::fs::create_dir_all(&named_like_a_state).unwrap();
    let started = |n: u64, option: &[&std::ffi::OsStr]| {
        let mut args: Vec<std::ffi::OsString> =
            training(Path::new("RUN"), n, &[]).into_iter().map(Into::into).collect();
        for arg in &mut args {
            if arg == "RUN" {
                *arg = run.clone().into();
            }
        }
        let at = args.iter().position(|arg| arg == "--set").unwrap();
        args.splice(at..at, option.iter().map(|&arg| arg.to_owned()));
        talent(&args)
    };
    let output = started(6, &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Resumes from that folder by its name. The damaged state is skipped, with a single warning.
    std::fs::write(state(&run, 6), "damaged").unwrap();
    let output = started(9, &["--resume".as_ref(), run.as_os_str()]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert_eq!(text.matches("trying the checkpoint before it").count(), 1, "{text}");
    assert_eq!(steps(&run), (1..=9).collect::<Vec<u64>>());
    assert!(named_like_a_state.is_dir());
}

#[test]
fn a_run_that_goes_on_keeps_its_config_but_for_what_is_said() {
    let root = tempfile::tempdir().unwrap();
    let run = root.path().join("a");
    succeed(&training(&run, 3, &[]));
    let go_on = |extra: &[&str]| {
        let mut args =
            vec!["train", "--device", "cpu", "--threads", "1", "--max-steps", "4", "--resume", "auto"];
        args.extend(["--data-root", data_root().to_str().unwrap(), "--run-dir", run.to_str().unwrap()]);
        args.extend(extra);
        talent(&args)
    };
    let error = error_of(&go_on(&["--set", "train.lr=0.0005"]));
    assert!(error.contains("train.lr: 0.001 -> 0.0005") && !error.contains("batch_size"), "{error}");
    let output = go_on(&["--allow-config-change", "--set", "train.lr=0.0005"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(steps(&run), [1, 2, 3, 4]);
    // A model cannot be resumed from: it is not a training state.
    let best = run.join("checkpoints/best.safetensors");
    let mut args = training(&root.path().join("b"), 4, &[]);
    args.extend(["--resume".into(), best.display().to_string()]);
    let error = error_of(&talent(&args));
    assert!(error.contains("best.safetensors: this is a model, and no training state"), "{error}");
}

#[test]
fn what_belongs_to_a_run_is_not_taken_over_changed_or_lost() {
    let root = tempfile::tempdir().unwrap();
    let run = root.path().join("a");
    succeed(&training(&run, 6, &[]));
    let go_on = || talent(&training(&run, 9, &["--resume", "auto"]));

    let records = run.join("records.jsonl");
    let whole = std::fs::read_to_string(&records).unwrap();
    let changed = whole.replacen("\"lr\":", "\"lr\":1", 1);
    std::fs::write(&records, &changed).unwrap();
    let error = error_of(&go_on());
    assert!(error.contains("records.jsonl") && error.contains("one was changed or lost"), "{error}");
    assert_eq!(std::fs::read_to_string(&records).unwrap(), changed);
    std::fs::write(&records, &whole).unwrap();

    let config = run.join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{text}\nseed = \"")).unwrap();
    let error = error_of(&go_on());
    assert!(error.contains("config.toml: it cannot be read"), "{error}");
    std::fs::write(&config, &text).unwrap();

    // A lost best model is evaluated and saved again.
    std::fs::remove_file(run.join("checkpoints/best.safetensors")).unwrap();
    let output = go_on();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(steps(&run), (1..=9).collect::<Vec<u64>>());
    assert!(run.join("checkpoints/best.safetensors").is_file());

    // Predicted masks do not overwrite a file that does not hold predictions.
    let (checkpoint, masks) = (run.join("checkpoints/best.safetensors"), root.path().join("masks.jsonl"));
    let eval = |to: &Path| {
        let args = ["eval", "--device", "cpu", "--data-root", data_root().to_str().unwrap(), "--checkpoint"];
        let mut args: Vec<String> = args.into_iter().map(str::to_owned).collect();
        args.extend([
            checkpoint.display().to_string(),
            "--save-predictions".into(),
            to.display().to_string(),
        ]);
        talent(&args)
    };
    let error = error_of(&eval(&config));
    assert!(error.contains("something else than predictions"), "{error}");
    assert_eq!(std::fs::read_to_string(&config).unwrap(), text);
    assert!(eval(&masks).status.success() && eval(&masks).status.success());
}
