//! The training loop. Read it from top to bottom.

mod average;
mod finish;
mod options;
mod recorded_step;
mod start;

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use cli_kit::{Processors, errln};
use command_kit::Progress;
use refcoco::training_mix::{TrainingMix, training_mix};
use refcoco::{Batch, BatchPlan, Buffers, OnError, Prefetch, RefAt, training_batches};
use serde_json::json;
use talent::Talent;
use talent::weights::Strictness;
use tch::{Device, Tensor};
use torch_ext::Adam;

use self::average::Average;
pub use self::options::{CheckpointEvery, Resume, RunOptions, SharedFlags};
use self::recorded_step::PendingStep;
use self::start::{DataOfRun, begin, finished_step, refuse_used_folder};
pub(crate) use self::start::{config_of_init, config_to_resume, init_from, stored_checkpoint};
use crate::batch::sample_options;
use crate::checkpoint::{self, Encoders, Position};
use crate::config::{Config, Regime};
use crate::data_notes::{tell_findings, tell_missing_validation};
use crate::distributed::Processes;
use crate::experiment::{EvalScope, Experiment};
use crate::gradient_buckets::GradientBuckets;
use crate::interrupt::{Interrupt, Interrupted};
use crate::memory_limit::ensure_fits;
use crate::official_checkpoint::load_encoders;
use crate::optim::adam;
use crate::run_dir::{RunDir, RunLock, TRAINING_REFS, environment};
use crate::step::{Steps, can_recompute};
use crate::step_graph::GraphedSteps;
use crate::tensorboard::EventFile;

/// Trains a model, evaluates it, and draws its curves and overlays.
///
/// # Errors
/// Anything that stops the run; the message names the file, key or sample at fault. An interruption by a signal is an error,
/// too.
pub fn train(cfg: Config, options: &RunOptions) -> Result<()> {
    if options.shared.recompute {
        can_recompute(&cfg.loss)?;
    }
    let device = options.machine.set_up()?;
    let processes = Processes::join(&cfg, device)?;
    if processes.size() == 1 {
        tell_processors(tch::get_num_threads().max(1) as usize);
    }
    processes.carry_out(|| train_together(cfg, options, device, &processes))
}

/// Prints what makes this machine slower than it could be.
pub(crate) fn tell_processors(n_threads: usize) {
    for note in Processors::here().notes(n_threads) {
        errln!("note: {note}");
    }
}

fn train_together(cfg: Config, options: &RunOptions, device: Device, processes: &Processes) -> Result<()> {
    match &options.resume {
        Resume::No if processes.leads() => refuse_used_folder(&options.run_dir)?,
        Resume::From(path) if processes.leads() => {
            ensure!(path.exists(), "--resume: there is no training state {}", path.display());
        }
        _ => {}
    }
    let mut experiment = Experiment::new(cfg, device, options.shared.data_root(), processes)?;
    let mix = training_mix(&experiment.datasets, experiment.cfg.data.keep_evaluated_images)?;
    ensure!(!mix.refs.is_empty(), "there is nothing to train on");
    processes.ensure_equal("the number of refs to train on", mix.refs.len())?;
    if !device.is_cuda() {
        let train = &experiment.cfg.train;
        let at_once = train.batch_size.min(mix.refs.len()) / train.accumulate / processes.size();
        ensure_fits(&experiment.cfg.model, at_once)?;
    }
    processes.ensure_equal("--max-steps", options.shared.max_steps)?;
    if processes.size() > 1 {
        ensure!(
            experiment.cfg.data.on_error == OnError::Stop,
            "data.on_error = \"skip\" needs one process: shares of a batch must be of one size"
        );
        let batch = &mix.refs[..experiment.cfg.train.batch_size.min(mix.refs.len())];
        processes.share_of(batch, experiment.cfg.train.accumulate)?;
    }
    if processes.leads() {
        tell_missing_validation(&experiment.datasets);
    }
    let strictness = Strictness { allow_missing: options.allow_missing.clone() };
    experiment.shorten(options.fast_dev_run, &mix);
    let mut encoders = load_encoders(&experiment.model, &experiment.cfg, &strictness)?;
    if options.embed_encoders || experiment.cfg.train.regime == Regime::Full {
        encoders = Encoders::default();
    }
    if let Some(path) = &options.init {
        init_from(path, &experiment.model, &encoders, &strictness)?;
    }
    let adam = adam(&experiment.model, &experiment.cfg.train);
    experiment.interrupt = Interrupt::listen()?;
    let Some(mut run) = Run::start(experiment, mix, adam, encoders, options)? else {
        if processes.leads() {
            errln!("{}: this run is finished", options.run_dir.display());
        }
        return Ok(());
    };
    run.announce();
    let done = run.carry_out();
    if processes.leads() && done.as_ref().is_err_and(|error| error.is::<Interrupted>()) {
        run.progress.clear();
        errln!(
            "interrupted; step {} is saved in {}. Go on with the same command and --resume auto",
            run.at.step,
            options.run_dir.display()
        );
    }
    done
}

/// Output of a run: its folder, and TensorBoard events.
struct Output {
    dir: RunDir,
    events: EventFile,
}

impl Output {
    fn open(
        lock: RunLock,
        experiment: &Experiment,
        n_refs: usize,
        options: &RunOptions,
        at: &Position,
    ) -> Result<Self> {
        let Experiment { cfg, device, processes, .. } = experiment;
        let matmul = cfg.train.precision.measured_kind(*device)?;
        let mut environment = environment(*device, options.shared.data_root(), &matmul, cfg.seed)?;
        environment["processes"] = processes.size().into();
        environment[TRAINING_REFS] = n_refs.into();
        environment["init"] = json!(options.init.as_ref().map(|path| path.to_string_lossy()));
        let dir = RunDir::open(lock, cfg, &environment, at)?;
        Ok(Self { events: EventFile::create(dir.path())?, dir })
    }
}

struct Run<'a> {
    experiment: Experiment,
    mix: TrainingMix,
    adam: Adam,
    options: &'a RunOptions,
    /// Where the leader writes; `None` on other ranks.
    output: Option<Output>,
    encoders: Encoders,
    at: Position,
    /// Steps that are replayed from a CUDA graph, if asked for.
    graphed: Option<GraphedSteps>,
    buckets: Option<GradientBuckets>,
    /// Average of the weights, with `train.ema`.
    average: Option<Average>,
    /// The last queued step, until it is recorded.
    pending: Option<PendingStep>,
    /// Number of steps in an epoch.
    per_epoch: u64,
    /// Step at which this run ends.
    n_steps: u64,
    /// Memory of batches, reused over all epochs.
    buffers: Buffers,
    progress: Progress,
    last_saved: Instant,
    started: Instant,
}

fn steps_of<'a>(
    experiment: &'a Experiment,
    options: &RunOptions,
    buckets: Option<&'a GradientBuckets>,
) -> Steps<'a> {
    let Experiment { cfg, device, model, processes, .. } = experiment;
    Steps { recompute: options.shared.recompute, buckets, ..Steps::plain(model, cfg, *device, processes) }
}

fn graphed(experiment: &Experiment, options: &RunOptions) -> Result<Option<GraphedSteps>> {
    if !options.cuda_graphs {
        return Ok(None);
    }
    errln!("warning: --cuda-graphs is experimental, see docs/gpu.md");
    Ok(Some(GraphedSteps::prepare(&steps_of(experiment, options, None))?))
}

/// All parameters and buffers.
fn tensors(model: &Talent) -> impl Iterator<Item = Tensor> + use<> {
    model.store().entries().into_iter().map(|(_, entry)| entry.tensor)
}

impl<'a> Run<'a> {
    /// Prepares a run. Returns `None`, without changing any file, if there is nothing left to do.
    fn start(
        experiment: Experiment,
        mix: TrainingMix,
        mut adam: Adam,
        encoders: Encoders,
        options: &'a RunOptions,
    ) -> Result<Option<Self>> {
        let (cfg, processes) = (&experiment.cfg, &experiment.processes);
        let per_epoch = batches_per_epoch(mix.refs.len(), cfg.train.batch_size);
        let average = (cfg.train.ema > 0.0).then(|| Average::new(&experiment.model, cfg.train.ema));
        let begun = match processes.leads() {
            true => {
                let data = DataOfRun { per_epoch, n_refs: mix.refs.len() };
                Some(begin(&experiment, &data, &mut adam, &encoders, average.as_ref(), options)?)
            }
            false => None,
        };
        let whole = per_epoch.saturating_mul(cfg.train.epochs);
        let limit = if options.fast_dev_run { Some(1) } else { options.shared.max_steps };
        let mut n_steps = limit.map_or(whole, |limit| limit.min(whole));
        let (at, finished) = processes.leader_value(
            begun.as_ref().map(|(_, at)| (at.clone(), finished_step(&options.run_dir) == Some(at.step))),
        )?;
        if is_stale(cfg, &at) {
            n_steps = n_steps.min(at.step);
        }
        if at.step >= n_steps && !at.evaluation_due && finished {
            return Ok(None);
        }
        if let Some(limit) = options.shared.max_steps {
            ensure!(
                at.step <= limit,
                "--max-steps {limit}: {} is at step {} already; give a later step or leave --max-steps out",
                options.run_dir.display(),
                at.step
            );
        }
        let moments = adam.state().into_iter().map(|(_, tensor)| tensor);
        let averages = average.iter().flat_map(Average::tensors);
        processes.broadcast(tensors(&experiment.model).chain(moments).chain(averages).collect())?;
        let buckets = match options.overlap_all_reduce {
            true => GradientBuckets::new(processes, &adam)?,
            false => None,
        };
        // Unsupported options are refused before anything is written.
        let graphed = graphed(&experiment, options)?;
        let output = match begun {
            Some((lock, _)) => Some(Output::open(lock, &experiment, mix.refs.len(), options, &at)?),
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
            graphed,
            buckets,
            average,
            pending: None,
            per_epoch,
            n_steps,
            progress,
            buffers: Buffers::default(),
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
        tell_findings(&self.experiment, |_, _| true);
        let Experiment { cfg, device, datasets, .. } = &self.experiment;
        let names: Vec<&str> = datasets.iter().map(|dataset| dataset.descriptor.name.as_str()).collect();
        let n_leaking: usize = self.mix.n_leaking.iter().sum();
        let n_without: usize = self.mix.n_without_expression.iter().sum();
        errln!(
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
            // A run that is interrupted during its evaluation repeats the evaluation when it is resumed.
            self.save()?;
            // Evaluation shows its own progress.
            self.progress.pauser().pause(|| self.averaged(Self::validate))?;
            self.at.evaluation_due = false;
            self.stop_early();
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
        let refs = self.epoch_refs();
        let batches = refs.chunks(batch_size.min(refs.len())).take(self.per_epoch as usize);
        let share = |refs: &[RefAt]| self.experiment.processes.share_of(refs, cfg.train.accumulate);
        let batches = batches.skip(self.at.batch as usize).map(share).collect::<Result<_>>()?;
        let shape = self.experiment.shape();
        let (options, buffers) = (sample_options(cfg), self.buffers.clone());
        let plan = BatchPlan { batches, seed, epoch, shape, prefetch: 3, options, buffers };
        let loader = training_batches(
            Arc::clone(&self.experiment.datasets),
            Arc::clone(&self.experiment.tokenizer),
            plan,
        );
        let done = self.train_on(loader);
        // If the next batch fails, the last step is still recorded.
        self.finish_pending().and(done)
    }

    /// The refs of an epoch, in the order in which they are visited.
    fn epoch_refs(&self) -> Vec<RefAt> {
        let (experiment, epoch) = (&self.experiment, self.at.epoch);
        match &experiment.scope {
            EvalScope::Refs(refs) => {
                // As many steps as with all data, so that evaluations and schedule stay those of the config.
                let n = self.per_epoch as usize * experiment.cfg.train.batch_size.min(refs.len());
                let n_passes = n.div_ceil(refs.len()) as u64;
                let passes =
                    (0..n_passes).flat_map(|number| experiment.pass_over(refs, epoch * n_passes + number));
                passes.take(n).collect()
            }
            _ => experiment.pass_over(&self.mix.refs, epoch),
        }
    }

    /// Does something with the averaged weights in place of the last ones, if `train.ema` asks for them.
    fn averaged<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let Some(average) = self.average.take() else { return work(self) };
        average.exchange();
        let done = work(self);
        average.exchange();
        self.average = Some(average);
        done
    }

    /// Ends the run here if its validation mIoU has not risen for `train.patience` evaluations.
    fn stop_early(&mut self) {
        if is_stale(&self.experiment.cfg, &self.at) && !self.is_finished() {
            self.n_steps = self.at.step;
            self.progress.clear();
            if self.output.is_some() {
                let (n, step) = (self.at.stale, self.at.step);
                errln!(
                    "stopped early at step {step}: no better validation mIoU in {n} evaluations (train.patience)"
                );
            }
        }
    }

    /// Trains on the batches of an epoch, to the end of the epoch or of the run.
    fn train_on(&mut self, batches: Prefetch<Batch>) -> Result<()> {
        for batch in batches {
            self.step(batch?)?;
            if self.is_finished() || self.at.batch == self.per_epoch {
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

    fn checkpoint_due(&self) -> bool {
        match self.options.checkpoint_every {
            Some(CheckpointEvery::Steps(n)) => self.at.step.is_multiple_of(n),
            Some(CheckpointEvery::Time(time)) => self.last_saved.elapsed() >= time,
            None => false,
        }
    }

    fn save(&mut self) -> Result<()> {
        self.finish_pending()?;
        let Some(Output { dir, .. }) = &self.output else { return Ok(()) };
        // The state contains the number of records, so these must be on disk first.
        dir.sync_records()?;
        dir.count_records(&mut self.at);
        let checkpoints = dir.checkpoints();
        let more = self.average.as_ref().map_or_else(Vec::new, Average::state);
        self.writer().save_state(&checkpoints.state(self.at.step), &self.adam, more, &self.at)?;
        checkpoints.keep(self.options.keep_checkpoints)?;
        self.last_saved = Instant::now();
        Ok(())
    }

    fn writer(&self) -> checkpoint::Writer<'_> {
        let Experiment { model, cfg, .. } = &self.experiment;
        checkpoint::Writer { model, config: cfg, encoders: &self.encoders }
    }
}

/// Whether the validation mIoU has not risen for `train.patience` evaluations.
fn is_stale(cfg: &Config, at: &Position) -> bool {
    cfg.train.patience > 0 && at.stale >= cfg.train.patience
}

/// Number of batches in an epoch. The last incomplete batch is dropped, as the official loader does; a data set smaller than a
/// batch is one batch.
fn batches_per_epoch(n_refs: usize, batch_size: usize) -> u64 {
    (n_refs / batch_size.min(n_refs).max(1)).max(1) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incomplete_batches_are_dropped() {
        assert_eq!((batches_per_epoch(100, 32), batches_per_epoch(20, 32)), (3, 1));
    }
}
