//! The training loop, to be read from top to bottom.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use data_cli::progress::Progress;
use data_cli::{metric_or_dash, metrics_table};
use metrics::{Evaluated, GroupReport, SplitReport};
use refcoco::training_mix::{TrainingMix, training_mix};
use refcoco::{Batch, Plan, RefAt, sampler, training_batches};
use serde_json::{Value, json};
use talent::weights::Strictness;
use torch_ext::Adam;

use crate::checkpoint::{self, Position};
use crate::config::{Config, differences};
use crate::evaluate::{evaluate_exchanged, evaluate_for_selection, evaluate_split};
use crate::events::EventFile;
use crate::experiment::{Experiment, Machine};
use crate::optim::{adam, lr_factor};
use crate::pictures::{SheetCollector, draw_curves};
use crate::precision::LossScaler;
use crate::prediction_file::PredictionFile;
use crate::run_dir::{RunDir, environment};
use crate::step::{StepReport, train_step};
use crate::weights::{load_encoders, load_whole, resume_official};

/// When to write checkpoints besides the ends of epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointEvery {
    /// After so many steps.
    Steps(u64),
    /// After so much time.
    Time(Duration),
}

impl std::str::FromStr for CheckpointEvery {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fail = || format!("`{text}` is neither a number of steps (500steps) nor of minutes (10m)");
        let split = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
        let n: u64 = text[..split].parse().map_err(|_| fail())?;
        match (n, &text[split..]) {
            (0, _) => Err(fail()),
            (n, "" | "steps" | "step") => Ok(Self::Steps(n)),
            (n, "m") => Ok(Self::Time(Duration::from_secs(60 * n))),
            _ => Err(fail()),
        }
    }
}

/// Where a run starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    /// From nothing; refuses a folder that holds a run.
    No,
    /// From the run folder's last checkpoint, or from nothing if it has none.
    Auto,
    /// From this run folder or checkpoint file.
    From(PathBuf),
}

/// How to carry out a run; nothing here changes its result.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Device and threads.
    pub machine: Machine,
    /// Folder of the data sets.
    pub data_root: PathBuf,
    /// The run's folder.
    pub run_dir: PathBuf,
    /// Ends the run normally after this many steps.
    pub max_steps: Option<u64>,
    /// Tensors, by the beginning of their official names, that the encoders' files may lack.
    pub allow_missing: Vec<String>,
    /// When to write checkpoints.
    pub checkpoint_every: Option<CheckpointEvery>,
    /// Where to start from.
    pub resume: Resume,
}

/// Trains, evaluates and draws a run.
///
/// # Errors
/// Anything that stops it; the message names the file, key or sample at fault.
pub fn train(cfg: Config, options: &RunOptions) -> Result<()> {
    let device = options.machine.set_up()?;
    let resume_from = find_checkpoint(options)?;
    let experiment = Experiment::new(cfg, device, &options.data_root)?;
    let mix = training_mix(&experiment.datasets, experiment.cfg.data.keep_evaluated_images)?;
    ensure!(!mix.refs.is_empty(), "there is nothing to train on");
    for position in 0..experiment.datasets.len() {
        experiment.datasets[position].split(&experiment.datasets[position].descriptor.val)?;
    }
    let strictness = Strictness { allow_missing: options.allow_missing.clone() };
    load_encoders(&experiment.model, &experiment.cfg.weights, &strictness)?;
    let adam = adam(&experiment.model, &experiment.cfg.train);
    let mut run = Run::start(experiment, mix, adam, options, resume_from)?;
    if run.is_finished() && options.resume != Resume::No && options.run_dir.join("metrics.json").is_file() {
        eprintln!("{}: this run is finished", options.run_dir.display());
        return Ok(());
    }
    run.announce();
    while !run.is_finished() {
        run.epoch()?;
    }
    run.finish()
}

/// Whether a training state is one of PyTorch's files rather than ours.
fn is_official(path: &std::path::Path) -> bool {
    path.extension().is_none_or(|extension| extension != "safetensors")
}

/// The training state to go on from, if any.
fn find_checkpoint(options: &RunOptions) -> Result<Option<PathBuf>> {
    let last_of = |run: &std::path::Path| run.join("checkpoints/last.state.safetensors");
    match &options.resume {
        Resume::No => {
            let (run, last) = (&options.run_dir, last_of(&options.run_dir));
            if last.exists() || run.join("records.jsonl").exists() {
                bail!(
                    "{} already holds a run; go on with --resume auto, or choose another --run-dir",
                    run.display()
                );
            }
            Ok(None)
        }
        Resume::Auto => Ok(Some(last_of(&options.run_dir)).filter(|path| path.is_file())),
        Resume::From(path) => {
            let file = match path {
                path if path.is_dir() => last_of(path),
                path if is_official(path) => path.clone(),
                path => checkpoint::state_path(path),
            };
            ensure!(file.is_file(), "--resume: there is no training state {}", file.display());
            Ok(Some(file))
        }
    }
}

struct Run<'a> {
    experiment: Experiment,
    mix: TrainingMix,
    adam: Adam,
    options: &'a RunOptions,
    dir: RunDir,
    events: EventFile,
    at: Position,
    /// Steps of an epoch.
    per_epoch: u64,
    /// Step at which this run ends.
    n_steps: u64,
    progress: Progress,
    last_saved: Instant,
    started: Instant,
}

impl<'a> Run<'a> {
    fn start(
        experiment: Experiment,
        mix: TrainingMix,
        mut adam: Adam,
        options: &'a RunOptions,
        resume_from: Option<PathBuf>,
    ) -> Result<Self> {
        let cfg = &experiment.cfg;
        let scaler = LossScaler::new(cfg.train.precision);
        let mut at = Position { step: 0, epoch: 0, batch: 0, best_miou: None, n_records: 0, scaler };
        let per_epoch = batches_per_epoch(mix.refs.len(), cfg.train.batch_size);
        if let Some(path) = resume_from.as_ref().filter(|path| is_official(path)) {
            at.epoch = resume_official(path, &experiment.model, &mut adam)?;
            at.step = at.epoch * per_epoch;
            eprintln!("resuming from {} after epoch {}", path.display(), at.epoch);
        } else if let Some(path) = resume_from {
            let meta = checkpoint::load_state(&path, &experiment.model, &mut adam)?;
            let changed = differences(&meta.config, cfg)?;
            ensure!(changed.is_empty(), "{}: the config differs: {}", path.display(), changed.join("; "));
            eprintln!("resuming from {} at step {}", path.display(), meta.position.step);
            at = meta.position;
        }
        let matmul = cfg.train.precision.measured_kind(experiment.device)?;
        let environment = environment(experiment.device, &options.data_root, &matmul, cfg.seed)?;
        let dir = RunDir::open(&options.run_dir, cfg, &environment, at.n_records)?;
        let events = EventFile::create(dir.path())?;
        let whole = per_epoch * cfg.train.epochs;
        let n_steps = options.max_steps.map_or(whole, |limit| limit.min(whole));
        let now = Instant::now();
        let progress = Progress::new("training", n_steps, at.step);
        Ok(Self {
            experiment,
            mix,
            adam,
            options,
            dir,
            events,
            at,
            per_epoch,
            n_steps,
            progress,
            last_saved: now,
            started: now,
        })
    }

    fn is_finished(&self) -> bool {
        self.at.step >= self.n_steps
    }

    fn announce(&self) {
        let Experiment { cfg, device, datasets, .. } = &self.experiment;
        let names: Vec<&str> = datasets.iter().map(|dataset| dataset.descriptor.name.as_str()).collect();
        let n_leaking: usize = self.mix.n_leaking.iter().sum();
        let n_without: usize = self.mix.n_without_expression.iter().sum();
        eprintln!(
            "{}: {} trained values on {device:?}, {} refs of {} (left out: {n_leaking} whose image is evaluated on, \
             {n_without} without expression), {} steps of {} refs",
            self.dir.path().display(),
            self.adam.n_values(),
            self.mix.refs.len(),
            names.join(" + "),
            self.n_steps,
            cfg.train.batch_size.min(self.mix.refs.len()),
        );
    }

    /// Trains to the end of the epoch or of the run, then evaluates and saves.
    fn epoch(&mut self) -> Result<()> {
        let (seed, epoch, batch_size) =
            (self.experiment.cfg.seed, self.at.epoch, self.experiment.cfg.train.batch_size);
        let order = sampler::epoch_order(seed, epoch, self.mix.refs.len());
        let refs: Vec<RefAt> = order.into_iter().map(|index| self.mix.refs[index]).collect();
        let per_epoch = self.per_epoch;
        let batches = refs.chunks(batch_size.min(refs.len())).take(per_epoch as usize);
        let batches = batches.skip(self.at.batch as usize).map(<[RefAt]>::to_vec).collect();
        let plan = Plan { batches, seed, epoch, shape: self.experiment.shape(), prefetch: 3 };
        let loader = training_batches(
            Arc::clone(&self.experiment.datasets),
            Arc::clone(&self.experiment.tokenizer),
            plan,
        );

        for batch in loader {
            let message = self.step(&batch?)?;
            self.progress.advance(1, &format!("epoch {}  {message}", epoch + 1));
            let epoch_ends = self.at.batch == per_epoch;
            if self.is_finished() || epoch_ends {
                break;
            }
            if self.checkpoint_due() {
                self.save()?;
            }
        }

        if self.at.batch == per_epoch {
            self.at.epoch += 1;
            self.at.batch = 0;
        }
        if self.is_finished() || self.at.epoch.is_multiple_of(self.experiment.cfg.eval.every_epochs) {
            // Evaluation shows progress of its own.
            self.progress.pauser().pause(|| self.validate())?;
        }
        self.save()?;
        self.draw_curves()
    }

    /// One optimiser step; returns a line for the progress display.
    fn step(&mut self, batch: &Batch) -> Result<String> {
        let started = Instant::now();
        let Experiment { cfg, device, model, .. } = &self.experiment;
        let whole_run = self.per_epoch * cfg.train.epochs;
        let factor = lr_factor(&cfg.train, self.at.step, self.at.epoch, whole_run);
        let StepReport { losses, finite, updated } =
            train_step(model, cfg, *device, &mut self.adam, &mut self.at.scaler, batch, factor)?;
        if !(finite || self.at.scaler.may_skip()) {
            bail!(
                "step {}: loss or gradient is not finite: {losses:?}; refs {}",
                self.at.step + 1,
                batch.refs.join(", ")
            );
        }
        self.at.step += 1;
        self.at.batch += 1;

        let seconds = started.elapsed().as_secs_f64();
        let lr = cfg.train.lr * factor;
        let loss: serde_json::Map<String, Value> =
            losses.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        self.dir.record(&json!({
            "kind": "step", "step": self.at.step, "epoch": self.at.epoch, "lr": lr, "loss": loss, "skipped": !updated,
            "runtime": {"seconds": seconds, "samples_per_s": batch.n as f64 / seconds},
        }))?;
        let mut scalars: Vec<(String, f64)> =
            losses.iter().map(|(name, value)| (format!("loss/{name}"), *value)).collect();
        scalars.push(("lr".into(), lr));
        self.events.scalars(self.at.step, &scalars)?;
        let total = losses.iter().find(|(name, _)| *name == "total").map_or(f64::NAN, |(_, value)| *value);
        Ok(format!("loss {total:.4}  {seconds:.2} s/step"))
    }

    fn checkpoint_due(&self) -> bool {
        match self.options.checkpoint_every {
            Some(CheckpointEvery::Steps(n)) => self.at.step.is_multiple_of(n),
            Some(CheckpointEvery::Time(time)) => self.last_saved.elapsed() >= time,
            None => false,
        }
    }

    fn save(&mut self) -> Result<()> {
        self.at.n_records = self.dir.n_records();
        let Experiment { model, cfg, .. } = &self.experiment;
        let last = self.dir.checkpoint("last");
        checkpoint::save_model(&last, model, cfg, &self.at)?;
        // The state is what a resumed run reads, so it comes last.
        checkpoint::save_state(&checkpoint::state_path(&last), model, &self.adam, cfg, &self.at)?;
        self.last_saved = Instant::now();
        Ok(())
    }

    /// Evaluates all validation splits and keeps the model if their mean mIoU is the best so far.
    fn validate(&mut self) -> Result<()> {
        let precision = self.experiment.cfg.train.precision;
        let mut mious = Vec::new();
        for position in 0..self.experiment.datasets.len() {
            let split = self.experiment.datasets[position].descriptor.val.clone();
            let started = Instant::now();
            let report = evaluate_for_selection(&self.experiment, position, &split, precision)?;
            let GroupReport { segmentation, nta } = &report.all;
            let name = self.experiment.split_name(position, &split);
            eprintln!(
                "step {}  {name}: mIoU {:.2}  oIoU {:.2}  Pr@50 {:.2}  NTA mass {}",
                self.at.step,
                segmentation.miou,
                segmentation.oiou,
                segmentation.pr50,
                metric_or_dash(nta.nta_mass)
            );
            self.record_metrics("eval", &name, &report, started.elapsed())?;
            let mut scalars = vec![
                (format!("{name}/mIoU"), segmentation.miou),
                (format!("{name}/oIoU"), segmentation.oiou),
            ];
            scalars.extend(nta.nta_mass.map(|mass| (format!("{name}/nta_mass"), mass)));
            self.events.scalars(self.at.step, &scalars)?;
            mious.push(segmentation.miou);
        }
        let miou = mious.iter().sum::<f64>() / mious.len().max(1) as f64;
        if self.at.best_miou.is_none_or(|best| miou >= best) {
            self.at.best_miou = Some(miou);
            self.at.n_records = self.dir.n_records();
            let best = self.dir.checkpoint("best");
            checkpoint::save_model(&best, &self.experiment.model, &self.experiment.cfg, &self.at)?;
        }
        Ok(())
    }

    fn record_metrics(
        &mut self,
        kind: &str,
        split: &str,
        report: &SplitReport,
        time: Duration,
    ) -> Result<()> {
        let mut record = serde_json::to_value(report)?;
        record["kind"] = json!(kind);
        record["split"] = json!(split);
        record["step"] = json!(self.at.step);
        record["epoch"] = json!(self.at.epoch);
        record["runtime"] = json!({"seconds": time.as_secs_f64()});
        self.dir.record(&record)
    }

    fn median_step_seconds(&self) -> Result<Option<f64>> {
        let records = self.dir.records()?;
        let steps = records.iter().filter(|record| record["kind"] == "step");
        let mut seconds: Vec<f64> =
            steps.filter_map(|record| record["runtime"]["seconds"].as_f64()).collect();
        seconds.sort_by(f64::total_cmp);
        Ok(seconds.get(seconds.len() / 2).copied())
    }

    fn draw_curves(&self) -> Result<()> {
        draw_curves(&self.dir.path().join("curves.png"), &self.dir.records()?)
    }

    /// Evaluates the best model on every split, draws, and prints the final table.
    fn finish(&mut self) -> Result<()> {
        self.progress.clear();
        let trained = self.started.elapsed();
        let best = self.dir.checkpoint("best");
        load_whole(&self.experiment.model, &best, &Strictness::default())?;
        let precision = self.experiment.cfg.train.precision;
        let threshold = self.experiment.cfg.eval.threshold;
        let mut rows = Vec::new();
        let mut report = serde_json::Map::new();
        let mut expressions: Vec<(String, Vec<Evaluated>)> = Vec::new();
        for position in 0..self.experiment.datasets.len() {
            let dataset = &self.experiment.datasets[position];
            let mut splits = vec![dataset.descriptor.val.clone()];
            let present: Vec<String> = dataset.splits().iter().map(|&split| split.to_owned()).collect();
            splits.extend(dataset.descriptor.test.iter().filter(|split| present.contains(split)).cloned());
            let n_expressions = refcoco::evaluation::queries(dataset, &splits[0])?.len();
            let mut sheet = SheetCollector::new(n_expressions, threshold);
            let mut predictions = PredictionFile::new(threshold);
            for (index, split) in splits.iter().enumerate() {
                let started = Instant::now();
                let evaluated = evaluate_split(&self.experiment, position, split, precision, |prediction| {
                    if position == 0 && index == 0 {
                        sheet.visit(&prediction);
                        predictions.visit(&self.experiment.datasets[position], &prediction);
                    }
                })?;
                let name = self.experiment.split_name(position, split);
                expressions.push((name.clone(), evaluated));
                let metrics = SplitReport::new(&expressions[expressions.len() - 1].1);
                self.record_metrics("final", &name, &metrics, started.elapsed())?;
                report.insert(name.clone(), serde_json::to_value(&metrics)?);
                rows.push((name, metrics));
            }
            if position == 0 {
                sheet.save(&self.dir.path().join("overlays.png"))?;
                predictions.save(&self.dir.path().join("predictions.jsonl"))?;
            }
            let [own, exchanged] = evaluate_exchanged(&self.experiment, position, &splits[0], precision)?;
            let name = self.experiment.split_name(position, &splits[0]);
            for (label, metrics) in [("with same-category rival", own), ("expression exchanged", exchanged)] {
                let name = format!("{name}, {label}");
                self.record_metrics("final", &name, &metrics, Duration::ZERO)?;
                report.insert(name.clone(), serde_json::to_value(&metrics)?);
                rows.push((name, metrics));
            }
        }
        self.dir.write_expressions(&expressions)?;
        self.draw_curves()?;
        let metrics = json!({
            "version": env!("CARGO_PKG_VERSION"), "step": self.at.step, "best_val_mIoU": self.at.best_miou,
            "trained_values": self.adam.n_values(), "splits": report,
            "runtime": {"median_step_seconds": self.median_step_seconds()?, "peak_rss_mib": peak_rss_mib()},
        });
        checkpoint::write_atomically(
            &self.dir.path().join("metrics.json"),
            format!("{metrics:#}\n").as_bytes(),
        )?;
        println!("{}", metrics_table(&rows));
        let (path, minutes) = (self.dir.path().display(), trained.as_secs_f64() / 60.0);
        println!(
            "{} steps in {minutes:.1} min; curves, overlays, records and checkpoints are in {path}",
            self.at.step
        );
        Ok(())
    }
}

/// The largest memory this process has held, in MiB; none where the system does not say.
fn peak_rss_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: f64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kilobytes / 1024.0)
}

/// Whole batches only, as the official loader drops the last incomplete one; a set smaller than a batch is one.
fn batches_per_epoch(n_refs: usize, batch_size: usize) -> u64 {
    (n_refs / batch_size.min(n_refs).max(1)).max(1) as u64
}

/// The checkpoint that a command should read: a run folder's best one, or the file named.
pub(crate) fn stored_checkpoint(run: Option<&PathBuf>, checkpoint: Option<&PathBuf>) -> Result<PathBuf> {
    let file = match (run, checkpoint) {
        (Some(run), None) => run.join("checkpoints/best.safetensors"),
        (None, Some(file)) => file.clone(),
        _ => bail!("name either --run DIR or --checkpoint FILE"),
    };
    ensure!(file.is_file(), "{}: there is no such checkpoint", file.display());
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoint_intervals() {
        assert_eq!("500steps".parse(), Ok(CheckpointEvery::Steps(500)));
        assert_eq!("7".parse(), Ok(CheckpointEvery::Steps(7)));
        assert_eq!("10m".parse(), Ok(CheckpointEvery::Time(Duration::from_secs(600))));
        for text in ["", "0", "m", "5h", "-3"] {
            assert!(text.parse::<CheckpointEvery>().is_err(), "{text}");
        }
    }

    #[test]
    fn incomplete_batches_are_dropped() {
        assert_eq!((batches_per_epoch(100, 32), batches_per_epoch(20, 32)), (3, 1));
    }
}
