//! Compares a training run that is killed and resumed with an uninterrupted one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use refcoco::refshapes::{Settings, generate};
use serde_json::Value;

use super::part::{Outcome, Setting};
use ranks::this_launcher;

/// Folder of a small RefShapes data set, generated on first use.
pub(super) fn data_root(setting: &Setting) -> Result<PathBuf> {
    let (root, whole) = (setting.work.join("data"), setting.work.join("data/whole"));
    if !whole.is_file() {
        let n = if setting.small() { 40 } else { 400 };
        let settings = Settings {
            train_images: n,
            val_images: 8,
            test_a_images: 4,
            test_b_images: 4,
            ..Settings::default()
        };
        std::fs::create_dir_all(&root).with_context(|| root.display().to_string())?;
        generate(&settings, &root, |_| {})?;
        whole_file::write(&whole, b"")?;
    }
    Ok(root)
}

/// A command that runs this program with some arguments.
pub(super) fn talent(args: &[&str]) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("this program's path")?);
    command.envs([this_launcher()]).args(args).stdin(Stdio::null());
    Ok(command)
}

/// Folder of the uninterrupted run, for parts that need a trained model.
pub(super) fn trained_run(setting: &Setting) -> PathBuf {
    setting.work.join("run")
}

fn training(setting: &Setting, run: &Path, n_steps: u64, more: &[&str]) -> Result<Command> {
    let data = data_root(setting)?;
    let steps = n_steps.to_string();
    let mut command = talent(&["train", "--device", &setting.device_name, "--max-steps", &steps])?;
    command.arg("--data-root").arg(data).arg("--run-dir").arg(run).args(more);
    Ok(command)
}

/// Arguments of a new run; a resumed run uses its own config.
fn settings(setting: &Setting) -> Vec<String> {
    let batch = if setting.small() { 8 } else { 32 };
    ["--preset", "tiny", "--checkpoint-every", "10steps", "--set"]
        .map(str::to_owned)
        .into_iter()
        .chain([
            format!("train.batch_size={batch}"),
            "train.epochs=100".into(),
            "eval.every_epochs=100".into(),
            "model.decoder.dropout=0.1".into(),
        ])
        .collect()
}

fn finish(mut command: Command) -> Result<()> {
    let output = command.output().context("a training run")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rfind(|line| line.starts_with("error:")).unwrap_or("it said nothing");
    ensure!(output.status.success(), "training ended with {}: {last}", output.status);
    Ok(())
}

/// The total loss of every step, bit-exact.
fn losses(run: &Path) -> Result<BTreeMap<u64, f64>> {
    let path = run.join("records.jsonl");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let mut losses = BTreeMap::new();
    // A killed process may leave an incomplete line.
    for record in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        if let (Some("step"), Some(step), Some(total)) =
            (record["kind"].as_str(), record["step"].as_u64(), record["loss"]["total"].as_f64())
        {
            losses.insert(step, total);
        }
    }
    Ok(losses)
}

/// Waits until the run has a record of a step, then kills it.
fn kill_after(mut child: Child, run: &Path, step: u64) -> Result<()> {
    let started = Instant::now();
    while losses(run).unwrap_or_default().keys().next_back().is_none_or(|&last| last < step) {
        if let Some(status) = child.try_wait()? {
            bail!("training ended before it was killed: {status}");
        }
        if started.elapsed() > Duration::from_secs(150) {
            let _ = child.kill();
            bail!("training did not come to step {step}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().context("killing a run")?;
    child.wait().context("killing a run")?;
    Ok(())
}

pub(super) fn kill_and_resume(setting: &Setting) -> Result<Outcome> {
    let n_steps: u64 = if setting.small() { 40 } else { 200 };
    let settings = settings(setting);
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let (unbroken, killed) = (trained_run(setting), setting.work.join("killed"));
    let started = Instant::now();
    finish(training(setting, &unbroken, n_steps, &settings)?)?;
    let mut outcome = Outcome::default();
    outcome.figure("steps", n_steps);
    outcome.figure("seconds_of_run", started.elapsed().as_secs_f64());

    let mut doomed = training(setting, &killed, n_steps, &settings)?;
    let doomed = doomed.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("a training run")?;
    kill_after(doomed, &killed, n_steps / 2)?;
    finish(training(setting, &killed, n_steps, &["--resume", "auto"])?)?;
    compare(&mut outcome, setting, &losses(&unbroken)?, &losses(&killed)?, n_steps);

    finish(training(setting, &killed, n_steps + 5, &["--resume", "auto"])?)?;
    let further = losses(&killed)?;
    outcome
        .require(further.len() as u64 == n_steps + 5, || format!("{} steps after going on", further.len()));
    Ok(outcome)
}

/// Compares the losses of the two runs. On a CPU they are bit-identical. On a GPU the order of some sums is not
/// deterministic (atomic additions in the backward passes of gathers and of upsampling). Two runs with the same seed
/// therefore differ by rounding from an early step on: data, initial values and random numbers are the same, and the losses
/// nearly the same.
fn compare(
    outcome: &mut Outcome,
    setting: &Setting,
    unbroken: &BTreeMap<u64, f64>,
    killed: &BTreeMap<u64, f64>,
    n_steps: u64,
) {
    let whole = (1..=n_steps).all(|step| unbroken.contains_key(&step) && killed.contains_key(&step));
    outcome.require(whole, || format!("{} and {} records of {n_steps} steps", unbroken.len(), killed.len()));
    let differs = |step: &u64| unbroken.get(step) != killed.get(step);
    let first = (1..=n_steps).find(differs);
    outcome.figure("identical_steps", first.map_or(n_steps, |step| step - 1));
    let mean = |losses: &BTreeMap<u64, f64>, from: u64| {
        let tail: Vec<f64> = losses.range(from..=n_steps).map(|(_, loss)| *loss).collect();
        tail.iter().sum::<f64>() / tail.len().max(1) as f64
    };
    let tail = n_steps - n_steps / 5;
    let (a, b) = (mean(unbroken, tail), mean(killed, tail));
    outcome.figure("last_loss", a);
    outcome.figure("last_loss_resumed", b);
    if setting.device.is_cuda() {
        outcome.at_most("last loss off by", (b / a - 1.0).abs(), 0.1);
        match first {
            Some(step) => outcome.remark(format!("losses are bit-identical up to step {}", step - 1)),
            None => outcome.remark("all losses are bit-identical"),
        }
    } else {
        outcome.require(first.is_none(), || format!("the resumed run differs from step {first:?} on"));
    }
    let begins = mean(unbroken, 1);
    outcome.require(a < begins, || "the loss does not fall".into());
}
