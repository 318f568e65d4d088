//! The training loop, to be read from top to bottom.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use data_cli::progress::Progress;
use data_cli::{metric_or_dash, metrics_table};
use metrics::{Evaluated, GroupReport, SplitReport};
use refcoco::training_mix::{TrainingMix, training_mix};
use refcoco::{BadSample, Batch, OnError, Plan, RefAt, sampler, training_batches};
use serde_json::{Value, json};
use talent::Talent;
use talent::weights::Strictness;
use tch::{Device, Kind, Tensor};
use torch_ext::{Adam, generator};

use crate::batch::TrainTensors;
use crate::checkpoint::{self, Checkpoints, Encoders, Meta, Position, load_own};
use crate::config::{Config, Regime, differences};
use crate::evaluate::{evaluate_exchanged, evaluate_for_selection, evaluate_split};
use crate::events::EventFile;
use crate::experiment::{Experiment, Machine};
use crate::files::write_atomically;
use crate::interrupt::{Interrupt, Interrupted};
use crate::optim::{adam, lr_factor};
use crate::pictures::{SheetCollector, draw_curves};
use crate::precision::LossScaler;
use crate::prediction_file::PredictionFile;
use crate::process;
use crate::processes::Processes;
use crate::run_dir::{RunDir, RunLock, environment, records_file};
use crate::step::{StepReport, train_step};
use crate::weights::{load_encoders, resume_official};

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
    /// How many training states are kept.
    pub keep_checkpoints: usize,
    /// Whether checkpoints also hold frozen encoders that came from a file.
    pub embed_encoders: bool,
    /// Whether a run may go on under another config.
    pub allow_config_change: bool,
    /// Where to start from.
    pub resume: Resume,
}

/// Trains, evaluates and draws a run.
///
/// # Errors
/// Anything that stops it; the message names the file, key or sample at fault. An interruption by a signal is one too.
pub fn train(cfg: Config, options: &RunOptions) -> Result<()> {
    let device = options.machine.set_up()?;
    let processes = Processes::join(&cfg, device)?;
    processes.carry_out(|| train_together(cfg, options, device, &processes))
}

fn train_together(cfg: Config, options: &RunOptions, device: Device, processes: &Processes) -> Result<()> {
    match &options.resume {
        Resume::No if processes.leads() => refuse_used_folder(&options.run_dir)?,
        Resume::From(path) if processes.leads() => {
            ensure!(path.exists(), "--resume: there is no training state {}", path.display());
        }
        _ => {}
    }
    let mut experiment = Experiment::new(cfg, device, &options.data_root, processes)?;
    let mix = training_mix(&experiment.datasets, experiment.cfg.data.keep_evaluated_images)?;
    ensure!(!mix.refs.is_empty(), "there is nothing to train on");
    processes.agree("the number of refs to train on", mix.refs.len())?;
    processes.agree("--max-steps", options.max_steps)?;
    if processes.size() > 1 {
        ensure!(
            experiment.cfg.data.on_error == OnError::Stop,
            "data.on_error = \"skip\" needs one process: shares of a batch must be of one size"
        );
        let batch = &mix.refs[..experiment.cfg.train.batch_size.min(mix.refs.len())];
        processes.share_of(batch, experiment.cfg.train.accumulate)?;
    }
    for position in 0..experiment.datasets.len() {
        experiment.datasets[position].split(&experiment.datasets[position].descriptor.val)?;
    }
    let strictness = Strictness { allow_missing: options.allow_missing.clone() };
    let mut encoders = load_encoders(&experiment.model, &experiment.cfg.weights, &strictness)?;
    if options.embed_encoders || experiment.cfg.train.regime == Regime::Full {
        encoders = Encoders::default();
    }
    let adam = adam(&experiment.model, &experiment.cfg.train);
    experiment.interrupt = Interrupt::listen()?;
    let Some(mut run) = Run::start(experiment, mix, adam, encoders, options)? else {
        if processes.leads() {
            eprintln!("{}: this run is finished", options.run_dir.display());
        }
        return Ok(());
    };
    run.announce();
    let done = run.carry_out();
    if processes.leads() && done.as_ref().is_err_and(|error| error.is::<Interrupted>()) {
        run.progress.clear();
        eprintln!(
            "interrupted; step {} is saved. Go on with: cargo xtask train --run-dir {} --resume auto",
            run.at.step,
            options.run_dir.display()
        );
    }
    done
}

/// Whether a training state is one of PyTorch's files rather than ours.
fn is_official(path: &Path) -> bool {
    path.extension().is_none_or(|extension| extension != "safetensors")
}

/// A run without `--resume` must not mix with one that is there.
fn refuse_used_folder(run: &Path) -> Result<()> {
    let used = !Checkpoints::of(run).states()?.is_empty() || records_file(run).exists();
    ensure!(
        !used,
        "{} already holds a run; go on with --resume auto, or choose another --run-dir",
        run.display()
    );
    Ok(())
}

/// A training state to go on from.
enum State {
    /// One of PyTorch's files, which have no checksum of their own.
    Official(PathBuf),
    /// One of ours, verified, with what it says of itself.
    Ours(PathBuf, Box<Meta>),
}

/// `None` for a start from nothing.
fn find_state(options: &RunOptions) -> Result<Option<State>> {
    let ours = |path: &Path| -> Result<State> {
        Ok(State::Ours(path.to_path_buf(), Box::new(checkpoint::verify(path)?)))
    };
    let newest = |run: &Path| Checkpoints::of(run).newest(ours);
    match &options.resume {
        Resume::No => Ok(None),
        Resume::Auto => newest(&options.run_dir),
        Resume::From(path) if path.is_dir() => {
            let found = newest(path)?;
            ensure!(found.is_some(), "--resume: {} holds no training state", path.display());
            Ok(found)
        }
        Resume::From(path) if is_official(path) => Ok(Some(State::Official(path.clone()))),
        Resume::From(path) => ours(path).map(Some),
    }
}

/// The config of the run that `--resume` names, for a command that names none.
pub(crate) fn config_to_resume(resume: &Resume, run_dir: Option<&Path>) -> Result<Option<Config>> {
    let of_run = |run: &Path| {
        Checkpoints::of(run).newest(|path| {
            checkpoint::read_meta(path)?.map(|meta| meta.config).context("it does not hold its config")
        })
    };
    match resume {
        Resume::No => Ok(None),
        Resume::Auto => run_dir.map_or(Ok(None), of_run),
        Resume::From(path) if path.is_dir() => of_run(path),
        Resume::From(path) if path.is_file() && !is_official(path) => {
            Ok(checkpoint::read_meta(path)?.map(|meta| meta.config))
        }
        Resume::From(_) => Ok(None),
    }
}

/// What a run leaves behind.
struct Output {
    dir: RunDir,
    events: EventFile,
}

struct Run<'a> {
    experiment: Experiment,
    mix: TrainingMix,
    adam: Adam,
    options: &'a RunOptions,
    /// Where the leading process writes.
    output: Option<Output>,
    encoders: Encoders,
    at: Position,
    /// Steps of an epoch.
    per_epoch: u64,
    /// Step at which this run ends.
    n_steps: u64,
    progress: Progress,
    last_saved: Instant,
    started: Instant,
}

/// The step whose model a run's `metrics.json`, the last file it writes, is about.
fn finished_step(run: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(run.join("metrics.json")).ok()?;
    serde_json::from_str::<Value>(&text).ok()?["step"].as_u64()
}

/// All parameters and buffers.
fn tensors(model: &Talent) -> impl Iterator<Item = Tensor> + use<> {
    model.store().entries().into_iter().map(|(_, entry)| entry.tensor)
}

/// What the leading process does alone: takes the run's folder, and fills model and optimiser with the state to go on from.
fn begin(
    experiment: &Experiment,
    per_epoch: u64,
    adam: &mut Adam,
    encoders: &Encoders,
    options: &RunOptions,
) -> Result<(RunLock, Position)> {
    let cfg = &experiment.cfg;
    // From here on nobody else works in this folder.
    let lock = RunLock::take(&options.run_dir)?;
    let mut at = Position::start(LossScaler::new(cfg.train.precision));
    match find_state(options)? {
        Some(State::Official(path)) => {
            at.epoch = resume_official(&path, &experiment.model, adam)?;
            at.step = at.epoch * per_epoch;
            eprintln!("resuming from {} after epoch {}", path.display(), at.epoch);
        }
        Some(State::Ours(path, meta)) => {
            refuse_change(&path, &meta, cfg, encoders, options.allow_config_change)?;
            checkpoint::load_state(&path, &meta, &experiment.model, adam)?;
            eprintln!("resuming from {} at step {}", path.display(), meta.position.step);
            at = meta.position;
            if meta.config.train.precision != cfg.train.precision {
                at.scaler = LossScaler::new(cfg.train.precision);
            }
            at.batch = at.batch.min(per_epoch);
            let own = Checkpoints::of(&options.run_dir);
            if own.states()?.contains(&path) {
                own.set_aside_after(at.step)?;
            } else {
                // Another run's records and best model stay with it.
                (at.n_records, at.best_miou) = (0, None);
            }
        }
        None => {}
    }
    Ok((lock, at))
}

impl<'a> Run<'a> {
    /// `None`, with nothing touched, if there is nothing left to do.
    fn start(
        experiment: Experiment,
        mix: TrainingMix,
        mut adam: Adam,
        encoders: Encoders,
        options: &'a RunOptions,
    ) -> Result<Option<Self>> {
        let (cfg, processes) = (&experiment.cfg, &experiment.processes);
        let per_epoch = batches_per_epoch(mix.refs.len(), cfg.train.batch_size);
        let begun = match processes.leads() {
            true => Some(begin(&experiment, per_epoch, &mut adam, &encoders, options)?),
            false => None,
        };
        let whole = per_epoch * cfg.train.epochs;
        let n_steps = options.max_steps.map_or(whole, |limit| limit.min(whole));
        let (at, finished) = processes.leaders(
            begun.as_ref().map(|(_, at)| (at.clone(), finished_step(&options.run_dir) == Some(at.step))),
        )?;
        if at.step >= n_steps && !at.evaluation_due && finished {
            return Ok(None);
        }
        let moments = adam.state().into_iter().map(|(_, tensor)| tensor);
        processes.share(tensors(&experiment.model).chain(moments).collect())?;
        let output = match begun {
            Some((lock, _)) => {
                let matmul = cfg.train.precision.measured_kind(experiment.device)?;
                let mut environment = environment(experiment.device, &options.data_root, &matmul, cfg.seed)?;
                environment["processes"] = processes.size().into();
                let dir = RunDir::open(lock, cfg, &environment, at.n_records)?;
                Some(Output { events: EventFile::create(dir.path())?, dir })
            }
            None => None,
        };
        let now = Instant::now();
        let progress = match output {
            Some(_) => Progress::new("training", n_steps, at.step),
            None => Progress::hidden(),
        };
        Ok(Some(Self {
            experiment,
            mix,
            adam,
            options,
            output,
            encoders,
            at,
            per_epoch,
            n_steps,
            progress,
            last_saved: now,
            started: now,
        }))
    }

    fn carry_out(&mut self) -> Result<()> {
        while !self.is_finished() || self.at.evaluation_due {
            self.epoch()?;
        }
        self.finish()
    }

    fn is_finished(&self) -> bool {
        self.at.step >= self.n_steps
    }

    fn announce(&self) {
        let Some(output) = &self.output else { return };
        let Experiment { cfg, device, datasets, .. } = &self.experiment;
        let names: Vec<&str> = datasets.iter().map(|dataset| dataset.descriptor.name.as_str()).collect();
        let n_leaking: usize = self.mix.n_leaking.iter().sum();
        let n_without: usize = self.mix.n_without_expression.iter().sum();
        eprintln!(
            "{}: {} trained values on {device:?}, {} refs of {} (left out: {n_leaking} whose image is evaluated on, \
             {n_without} without expression), {} steps of {} refs{}",
            output.dir.path().display(),
            self.adam.n_values(),
            self.mix.refs.len(),
            names.join(" + "),
            self.n_steps,
            cfg.train.batch_size.min(self.mix.refs.len()),
            match self.experiment.processes.size() {
                1 => String::new(),
                n => format!(" in {n} processes"),
            },
        );
    }

    /// Trains to the end of the epoch or of the run, then evaluates and saves.
    fn epoch(&mut self) -> Result<()> {
        if !self.at.evaluation_due {
            self.steps()?;
            let epoch_ends = self.at.batch == self.per_epoch;
            let every = self.experiment.cfg.eval.every_epochs;
            self.at.evaluation_due =
                self.is_finished() || (epoch_ends && (self.at.epoch + 1).is_multiple_of(every));
        }
        if self.at.evaluation_due {
            // A run that is ended in its evaluation begins with it when it goes on.
            self.save()?;
            // Evaluation shows progress of its own.
            self.progress.pauser().pause(|| self.validate())?;
            self.at.evaluation_due = false;
        }
        if self.at.batch == self.per_epoch {
            self.at.epoch += 1;
            self.at.batch = 0;
        }
        self.save()?;
        self.draw_curves()
    }

    /// Trains to the end of the epoch or of the run.
    fn steps(&mut self) -> Result<()> {
        let cfg = &self.experiment.cfg;
        let (seed, epoch, batch_size) = (cfg.seed, self.at.epoch, cfg.train.batch_size);
        let order = sampler::epoch_order(seed, epoch, self.mix.refs.len());
        let refs: Vec<RefAt> = order.into_iter().map(|index| self.mix.refs[index]).collect();
        let per_epoch = self.per_epoch;
        let batches = refs.chunks(batch_size.min(refs.len())).take(per_epoch as usize);
        let share = |refs: &[RefAt]| self.experiment.processes.share_of(refs, cfg.train.accumulate);
        let batches = batches.skip(self.at.batch as usize).map(share).collect::<Result<_>>()?;
        let shape = self.experiment.shape();
        let plan = Plan { batches, seed, epoch, shape, prefetch: 3, on_error: cfg.data.on_error };
        let loader = training_batches(
            Arc::clone(&self.experiment.datasets),
            Arc::clone(&self.experiment.tokenizer),
            plan,
        );
        for batch in loader {
            let message = self.step(&batch?)?;
            self.progress.advance(1, &format!("epoch {}  {message}", epoch + 1));
            if self.is_finished() || self.at.batch == per_epoch {
                break;
            }
            if let Err(error) = self.experiment.processes.check(&self.experiment.interrupt) {
                if error.is::<Interrupted>() {
                    self.save()?;
                }
                return Err(error);
            }
            if self.checkpoint_due() {
                self.save()?;
            }
        }
        Ok(())
    }

    /// Counts and lists samples that could not be read; returns them for the record.
    fn note_bad_samples(&mut self, batch: &Batch) -> Result<Vec<Value>> {
        let limit = self.experiment.cfg.data.max_bad_samples;
        for BadSample { name, error } in &batch.bad {
            if self.at.bad_samples.insert(name.clone()) {
                eprintln!("warning: {name} is skipped: {error}");
            }
            ensure!(
                self.at.bad_samples.len() <= limit,
                "more than {limit} samples cannot be read (data.max_bad_samples); the last is {name}: {error}"
            );
        }
        Ok(batch.bad.iter().map(|BadSample { name, error }| json!({"ref": name, "error": error})).collect())
    }

    /// One optimiser step; returns a line for the progress display.
    fn step(&mut self, batch: &Batch) -> Result<String> {
        let started = Instant::now();
        let bad = self.note_bad_samples(batch)?;
        let Experiment { cfg, device, model, processes, .. } = &self.experiment;
        let whole_run = self.per_epoch * cfg.train.epochs;
        let factor = lr_factor(&cfg.train, self.at.step, self.at.epoch, whole_run);
        processes.seed_step(cfg.seed, self.at.step);
        let random = generator::state(Device::Cpu)?;
        let StepReport { losses, finite, updated } = if batch.n == 0 {
            StepReport { losses: Vec::new(), finite: true, updated: false }
        } else {
            train_step(model, cfg, *device, processes, &mut self.adam, &mut self.at.scaler, batch, factor)?
        };
        if !(finite || self.at.scaler.may_skip()) {
            let dump = self.options.run_dir.join(match processes.rank() {
                0 => "nonfinite.safetensors".to_owned(),
                rank => format!("nonfinite-rank-{rank}.safetensors"),
            });
            dump_step(&dump, model, batch, random, self.at.step + 1)?;
            bail!(
                "step {}: loss or gradient is not finite: {losses:?}; refs {}; the batch and the parameters are in {}",
                self.at.step + 1,
                batch.refs.join(", "),
                dump.display()
            );
        }
        self.at.step += 1;
        self.at.batch += 1;

        let seconds = started.elapsed().as_secs_f64();
        let lr = cfg.train.lr * factor;
        let loss: serde_json::Map<String, Value> =
            losses.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        let mut record = json!({
            "kind": "step", "step": self.at.step, "epoch": self.at.epoch, "lr": lr, "loss": loss, "skipped": !updated,
            "runtime": {
                "seconds": seconds, "samples_per_s": (batch.n * processes.size()) as f64 / seconds, "rss_mib": process::rss_mib(),
                "open_files": process::open_files(),
            },
        });
        if !bad.is_empty() {
            record["bad_samples"] = bad.into();
        }
        let total = losses.iter().find(|(name, _)| *name == "total").map_or(f64::NAN, |(_, value)| *value);
        let message = format!("loss {total:.4}  {seconds:.2} s/step");
        let Some(Output { dir, events }) = &mut self.output else { return Ok(message) };
        dir.record(&record)?;
        let mut scalars: Vec<(String, f64)> =
            losses.iter().map(|(name, value)| (format!("loss/{name}"), *value)).collect();
        scalars.push(("lr".into(), lr));
        events.scalars(self.at.step, &scalars)?;
        Ok(message)
    }

    fn checkpoint_due(&self) -> bool {
        match self.options.checkpoint_every {
            Some(CheckpointEvery::Steps(n)) => self.at.step.is_multiple_of(n),
            Some(CheckpointEvery::Time(time)) => self.last_saved.elapsed() >= time,
            None => false,
        }
    }

    fn save(&mut self) -> Result<()> {
        let Some(Output { dir, .. }) = &self.output else { return Ok(()) };
        // The state says how many records there are, so they must be there first.
        dir.sync_records()?;
        self.at.n_records = dir.n_records();
        let checkpoints = dir.checkpoints();
        self.writer().save_state(&checkpoints.state(self.at.step), &self.adam, &self.at)?;
        checkpoints.keep(self.options.keep_checkpoints)?;
        self.last_saved = Instant::now();
        Ok(())
    }

    fn writer(&self) -> checkpoint::Writer<'_> {
        let Experiment { model, cfg, .. } = &self.experiment;
        checkpoint::Writer { model, config: cfg, encoders: &self.encoders }
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
            mious.push(segmentation.miou);
            let Some(output) = &mut self.output else { continue };
            eprintln!(
                "step {}  {name}: mIoU {:.2}  oIoU {:.2}  Pr@50 {:.2}  NTA mass {}",
                self.at.step,
                segmentation.miou,
                segmentation.oiou,
                segmentation.pr50,
                metric_or_dash(nta.nta_mass)
            );
            let mut scalars = vec![
                (format!("{name}/mIoU"), segmentation.miou),
                (format!("{name}/oIoU"), segmentation.oiou),
            ];
            scalars.extend(nta.nta_mass.map(|mass| (format!("{name}/nta_mass"), mass)));
            output.events.scalars(self.at.step, &scalars)?;
            self.record_metrics("eval", &name, &report, started.elapsed())?;
        }
        let miou = mious.iter().sum::<f64>() / mious.len().max(1) as f64;
        if self.at.best_miou.is_none_or(|best| miou >= best) {
            self.at.best_miou = Some(miou);
            if let Some(Output { dir, .. }) = &self.output {
                self.at.n_records = dir.n_records();
                self.writer().save_model(&dir.checkpoints().best(), &self.at)?;
            }
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
        let Some(Output { dir, .. }) = &mut self.output else { return Ok(()) };
        let mut record = serde_json::to_value(report)?;
        record["kind"] = json!(kind);
        record["split"] = json!(split);
        record["step"] = json!(self.at.step);
        // Epochs finished.
        record["epoch"] = json!(self.at.epoch + u64::from(self.at.batch == self.per_epoch));
        record["runtime"] = json!({"seconds": time.as_secs_f64()});
        dir.record(&record)
    }

    /// What the steps of the whole run took, and whether the process has grown on the way.
    fn run_time(&self, dir: &RunDir) -> Result<Value> {
        let records = dir.records()?;
        let steps: Vec<&Value> = records.iter().filter(|record| record["kind"] == "step").collect();
        let of_steps = |key: &str| -> Vec<(f64, f64)> {
            let value = |record: &&Value| Some((record["step"].as_f64()?, record["runtime"][key].as_f64()?));
            steps.iter().filter_map(value).collect()
        };
        let mut seconds: Vec<f64> = of_steps("seconds").into_iter().map(|(_, seconds)| seconds).collect();
        seconds.sort_by(f64::total_cmp);
        let growth = |key: &str| process::slope(&of_steps(key)).map(|slope| slope * 1000.0);
        Ok(json!({
            "median_step_seconds": seconds.get(seconds.len() / 2),
            "peak_rss_mib": process::peak_rss_mib(),
            "rss_mib_per_1000_steps": growth("rss_mib"),
            "open_files_per_1000_steps": growth("open_files"),
        }))
    }

    fn draw_curves(&self) -> Result<()> {
        let Some(Output { dir, .. }) = &self.output else { return Ok(()) };
        draw_curves(&dir.path().join("curves.png"), &dir.records()?)
    }

    /// Evaluates the best model on every split, draws, and prints the final table.
    fn finish(&mut self) -> Result<()> {
        self.progress.clear();
        let trained = self.started.elapsed();
        if let Some(Output { dir, .. }) = &self.output {
            let checkpoints = dir.checkpoints();
            self.writer().save_model(&checkpoints.last(), &self.at)?;
            load_own(&self.experiment.model, &checkpoints.best(), &Strictness::default())?;
        }
        self.experiment.processes.share(tensors(&self.experiment.model).collect())?;
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
            let queries = refcoco::evaluation::queries(dataset, &splits[0])?;
            let mut sheet = SheetCollector::new(queries.len(), threshold);
            let mut predictions = PredictionFile::new(threshold);
            for (index, split) in splits.iter().enumerate() {
                let started = Instant::now();
                let evaluated =
                    evaluate_split(&self.experiment, position, split, precision, |place, prediction| {
                        if position == 0 && index == 0 {
                            sheet.visit(place, &prediction);
                            predictions.visit(place, &self.experiment.datasets[position], &prediction);
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
                let processes = &self.experiment.processes;
                let (sheet, predictions) = (sheet.gather(processes)?, predictions.gather(processes)?);
                if let Some(Output { dir, .. }) = &self.output {
                    let dataset = &self.experiment.datasets[position];
                    sheet.save(&dir.path().join("overlays.png"), dataset, &queries)?;
                    predictions.save(&dir.path().join("predictions.jsonl"))?;
                }
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
        self.draw_curves()?;
        let Some(Output { dir, .. }) = &self.output else { return Ok(()) };
        dir.write_expressions(&expressions)?;
        let metrics = json!({
            "version": env!("CARGO_PKG_VERSION"), "step": self.at.step, "best_val_mIoU": self.at.best_miou,
            "trained_values": self.adam.n_values(), "splits": report,
            "bad_samples": self.at.bad_samples, "runtime": self.run_time(dir)?,
        });
        write_atomically(&dir.path().join("metrics.json"), format!("{metrics:#}\n").as_bytes())?;
        println!("{}", metrics_table(&rows));
        let (path, minutes) = (dir.path().display(), trained.as_secs_f64() / 60.0);
        println!(
            "{} steps in {minutes:.1} min; curves, overlays, records and checkpoints are in {path}",
            self.at.step
        );
        Ok(())
    }
}

/// A training state of another config is refused unless that is allowed.
fn refuse_change(path: &Path, meta: &Meta, cfg: &Config, encoders: &Encoders, allowed: bool) -> Result<()> {
    let mut changed = differences(&meta.config, cfg)?;
    // Where the encoders lie does not matter, what they are does.
    changed.retain(|line| !line.starts_with("weights."));
    for (key, before, now) in [
        ("weights.image", &meta.encoders.image, &encoders.image),
        ("weights.text", &meta.encoders.text, &encoders.text),
    ] {
        if let (Some(before), Some(now)) = (before, now)
            && before.sha256 != now.sha256
        {
            changed.push(format!("{key}: SHA-256 {} -> {}", before.sha256, now.sha256));
        }
    }
    let shown = changed.join("; ");
    ensure!(
        changed.is_empty() || allowed,
        "{}: the config differs: {shown}; go on all the same with --allow-config-change",
        path.display()
    );
    if !changed.is_empty() {
        eprintln!("warning: the run goes on under another config: {shown}");
    }
    Ok(())
}

/// Writes what is needed to repeat a step: the batch, the state of the random generator, and the parameters, which a step
/// whose gradients are not finite leaves alone.
fn dump_step(path: &Path, model: &Talent, batch: &Batch, random: Tensor, step: u64) -> Result<()> {
    let TrainTensors { images, masks, words, positives, negatives, valid } =
        TrainTensors::new(batch, Device::Cpu, Kind::Float);
    let mut tensors: Vec<(String, Tensor)> =
        model.trainable().into_iter().map(|(name, tensor)| (format!("model/{name}"), tensor)).collect();
    for (name, tensor) in [
        ("images", images),
        ("masks", masks),
        ("words", words),
        ("positives", positives),
        ("negatives", negatives),
        ("valid", valid),
    ] {
        tensors.push((format!("batch/{name}"), tensor));
    }
    tensors.push(("rng/cpu".into(), random));
    let info = json!({"step": step, "refs": batch.refs});
    checkpoint::write_tensors(path, tensors, ("talent_step", &info.to_string()))
}

/// Whole batches only, as the official loader drops the last incomplete one; a set smaller than a batch is one.
fn batches_per_epoch(n_refs: usize, batch_size: usize) -> u64 {
    (n_refs / batch_size.min(n_refs).max(1)).max(1) as u64
}

/// The checkpoint that a command should read: a run folder's best one, or the file named.
pub(crate) fn stored_checkpoint(run: Option<&PathBuf>, checkpoint: Option<&PathBuf>) -> Result<PathBuf> {
    let file = match (run, checkpoint) {
        (Some(run), None) => Checkpoints::of(run).best(),
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
