//! Optimiser steps and their records.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use cli_kit::errln;
use refcoco::{BadSample, Batch};
use run_files::{Record, StepRecord, StepTime, UnreadSample};
use serde_json::json;
use talent::Talent;
use tch::{Device, Kind, Tensor};
use torch_ext::generator;

use super::{Output, Run, steps_of};
use crate::batch::TrainTensors;
use crate::checkpoint;
use crate::experiment::Experiment;
use crate::optim::lr_factor;
use crate::proc_status;
use crate::step::{QueuedStep, StepReport};

/// A queued step that is not recorded yet.
pub(super) struct PendingStep {
    queued: QueuedStep,
    batch: Batch,
    /// Samples of the batch that could not be read, for the record.
    bad: Vec<UnreadSample>,
    /// RNG state before the step.
    random: Tensor,
    step: u64,
    epoch: u64,
    lr: f64,
    seconds: f64,
}

impl Run<'_> {
    /// Queues one optimiser step, then finishes and records the step before it, so that a GPU stays busy.
    pub(super) fn step(&mut self, batch: Batch) -> Result<()> {
        let started = Instant::now();
        let mut queued = self.queue(batch)?;
        self.finish_pending()?;
        queued.seconds = started.elapsed().as_secs_f64();
        self.pending = Some(queued);
        Ok(())
    }

    fn queue(&mut self, batch: Batch) -> Result<PendingStep> {
        let bad = self.note_bad_samples(&batch)?;
        let Experiment { cfg, processes, .. } = &self.experiment;
        let whole_run = self.per_epoch.saturating_mul(cfg.train.epochs);
        let factor = lr_factor(&cfg.train, self.at.step, self.at.epoch, whole_run);
        processes.seed_step(cfg.seed, self.at.step);
        let random = generator::state(Device::Cpu)?;
        let queued = if batch.n == 0 {
            QueuedStep::empty()
        } else {
            let steps = steps_of(&self.experiment, self.options, self.buckets.as_ref());
            let before = self.pending.as_ref().map(|before| &before.queued);
            let (adam, scaler) = (&mut self.adam, &mut self.at.scaler);
            match &mut self.graphed {
                Some(graphed) => graphed.queue(&steps, adam, scaler, &batch, factor, before)?,
                None => steps.queue(adam, scaler, &batch, factor, before)?,
            }
        };
        self.at.step += 1;
        self.at.batch += 1;
        if let Some(average) = &self.average {
            average.update(self.at.step);
        }
        let (step, epoch, lr) = (self.at.step, self.at.epoch, cfg.train.lr * factor);
        Ok(PendingStep { queued, batch, bad, random, step, epoch, lr, seconds: 0.0 })
    }

    /// Counts samples that could not be read, and warns of each once; returns them for the record.
    fn note_bad_samples(&mut self, batch: &Batch) -> Result<Vec<UnreadSample>> {
        let limit = self.experiment.cfg.data.max_bad_samples;
        for BadSample { name, error } in &batch.bad {
            if self.at.bad_samples.insert(name.clone()) {
                errln!("warning: {name} is skipped: {error}");
            }
            ensure!(
                self.at.bad_samples.len() <= limit,
                "more than {limit} samples cannot be read (data.max_bad_samples); the last is {name}: {error}"
            );
        }
        let unread =
            |BadSample { name, error }: &BadSample| UnreadSample { name: name.clone(), error: error.clone() };
        Ok(batch.bad.iter().map(unread).collect())
    }

    /// Waits for the last queued step, checks and records it. Call this before anything else uses or writes the model: no step
    /// is in flight afterwards.
    pub(super) fn finish_pending(&mut self) -> Result<()> {
        let Some(PendingStep { queued, batch, bad, random, step, epoch, lr, seconds }) = self.pending.take()
        else {
            return Ok(());
        };
        let StepReport { losses, finite, updated } = queued.report()?;
        let processes = &self.experiment.processes;
        if !(finite || self.at.scaler.may_skip()) {
            let dump = self.options.run_dir.join(match processes.rank() {
                0 => "nonfinite.safetensors".to_owned(),
                rank => format!("nonfinite-rank-{rank}.safetensors"),
            });
            dump_step(&dump, &self.experiment.model, &batch, random, step)?;
            bail!(
                "step {step}: loss or gradient is not finite: {losses:?}; refs {}; the batch and the parameters are in {}",
                batch.refs.join(", "),
                dump.display()
            );
        }
        let total = losses.iter().find(|(name, _)| *name == "total").map_or(f64::NAN, |(_, value)| *value);
        self.progress.advance(1, &format!("epoch {}  loss {total:.4}  {seconds:.2} s/step", epoch + 1));
        let Some(Output { dir, events }) = &mut self.output else { return Ok(()) };
        // JSON has no numbers that are not finite.
        let finite = |value: f64| value.is_finite().then_some(value);
        dir.record(&Record::Step(StepRecord {
            step,
            epoch,
            lr,
            loss: losses.iter().map(|(name, value)| ((*name).to_owned(), finite(*value))).collect(),
            skipped: !updated,
            bad_samples: bad,
            runtime: StepTime {
                seconds: Some(seconds),
                samples_per_s: finite((batch.n * processes.size()) as f64 / seconds),
                rss_mib: proc_status::rss_mib(),
                open_files: proc_status::open_files(),
            },
        }))?;
        let mut scalars: Vec<(String, f64)> =
            losses.iter().map(|(name, value)| (format!("loss/{name}"), *value)).collect();
        scalars.push(("lr".into(), lr));
        events.scalars(step, &scalars)
    }
}

/// Writes what is needed to repeat a step: the batch, the RNG state, and the parameters. The parameters are those before the
/// step: neither a step with non-finite gradients nor one queued after it updates them.
fn dump_step(path: &Path, model: &Talent, batch: &Batch, random: Tensor, step: u64) -> Result<()> {
    let inputs = TrainTensors::new(batch, Device::Cpu, Kind::Float)?;
    let mut tensors: Vec<(String, Tensor)> =
        model.trainable().into_iter().map(|(name, tensor)| (format!("model/{name}"), tensor)).collect();
    for (name, tensor) in inputs.named() {
        tensors.push((format!("batch/{name}"), tensor));
    }
    tensors.push(("rng/cpu".into(), random));
    let info = json!({"step": step, "refs": batch.refs});
    checkpoint::write_tensors(path, tensors, ("talent_step", &info.to_string()))
}
