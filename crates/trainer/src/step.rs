//! One optimiser step, the unit that training repeats and `bench step` times.

use anyhow::Result;
use refcoco::Batch;
use talent::{Talent, TalentOutput, Triplet};
use tch::{Device, Kind, Tensor};
use torch_ext::{Adam, Download, Lowered};
use tracing::trace_span;

use crate::batch::TrainTensors;
use crate::config::Config;
use crate::objective::objective;
use crate::precision::LossScaler;
use crate::processes::Processes;

/// What a step did.
#[derive(Debug)]
pub(crate) struct StepReport {
    /// Unweighted loss terms by name, and their weighted sum under `total`.
    pub(crate) losses: Vec<(&'static str, f64)>,
    /// Whether all losses and gradients were finite.
    pub(crate) finite: bool,
    /// Whether the parameters were updated.
    pub(crate) updated: bool,
}

/// A step whose work the device has been asked for.
#[derive(Debug)]
pub(crate) enum QueuedStep {
    /// It may be at work still.
    Coming {
        /// Of the losses.
        names: Vec<&'static str>,
        /// The losses, and whether the parameters were left alone.
        values: Download,
        /// One float32 on the device: 1 if this step or one before it left the parameters alone, otherwise 0.
        failed: Tensor,
    },
    /// It is over.
    Known(StepReport),
}

impl QueuedStep {
    /// A step without samples.
    pub(crate) fn empty() -> Self {
        Self::Known(StepReport { losses: Vec::new(), finite: true, updated: false })
    }

    /// Waits for the step, not for work that was queued after it.
    pub(crate) fn report(self) -> Result<StepReport> {
        let (names, values) = match self {
            Self::Coming { names, values, .. } => (names, values),
            Self::Known(report) => return Ok(report),
        };
        let mut values = Vec::<f64>::try_from(values.wait()?)?;
        let updated = values.pop() == Some(0.0);
        let finite = updated && values.iter().all(|value| value.is_finite());
        Ok(StepReport { losses: names.into_iter().zip(values).collect(), finite, updated })
    }
}

/// What a step leaves on the device.
#[derive(Debug)]
pub(crate) struct Computed {
    /// Of the losses.
    pub(crate) names: Vec<&'static str>,
    /// float64: the losses, and `failed`.
    pub(crate) values: Tensor,
    /// One float32: 1 if this step or one before it left the parameters alone, otherwise 0.
    pub(crate) failed: Tensor,
}

/// The factor on the learning rates of a step.
#[derive(Debug, Clone, Copy)]
pub(crate) enum LearningRate<'a> {
    /// Known to the host.
    Factor(f64),
    /// A float32 scalar on the device.
    OnDevice(&'a Tensor),
}

/// What the steps of a run have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Steps<'a> {
    pub(crate) model: &'a Talent,
    pub(crate) cfg: &'a Config,
    pub(crate) device: Device,
    pub(crate) processes: &'a Processes,
    /// Whether the image encoder's blocks are computed again in the backward pass, to save memory.
    pub(crate) recompute: bool,
}

impl Steps<'_> {
    /// Forward pass, losses, backward pass, update; no update if a gradient is not finite. A GPU is not waited for:
    /// reading the report after the next step is queued keeps it busy. Only where the next step's scale depends on this
    /// one's outcome is that known on return.
    ///
    /// - batch: of several processes, this one's share; all end with the same gradients, losses and parameters
    /// - factor: on the learning rates
    /// - before: a step whose report is not known yet: if it failed, this one leaves the parameters alone, too
    pub(crate) fn queue(
        &self,
        adam: &mut Adam,
        scaler: &mut LossScaler,
        batch: &Batch,
        factor: f64,
        before: Option<&QueuedStep>,
    ) -> Result<QueuedStep> {
        let Self { model, device, .. } = *self;
        let whole =
            trace_span!("data").in_scope(|| TrainTensors::new(batch, device, model.store().kind()))?;
        let before = match before {
            Some(QueuedStep::Coming { failed, .. }) => Some(failed),
            _ => None,
        };
        let Computed { names, values, failed } =
            self.compute(adam, scaler, &whole, LearningRate::Factor(factor), before)?;
        let step = QueuedStep::Coming { names, values: Download::start(&values)?, failed };
        if !scaler.may_skip() {
            return Ok(step);
        }
        let report = step.report()?;
        scaler.update(report.updated);
        Ok(QueuedStep::Known(report))
    }

    /// Parts of a batch of n samples that go through the network one after the other.
    pub(crate) fn n_parts(&self, n: usize) -> usize {
        let accumulate = self.cfg.train.accumulate;
        if n.is_multiple_of(accumulate) { accumulate } else { 1 }
    }

    /// The part of a step that is the device's work alone.
    ///
    /// - before: one float32 on the device, 1 if a step before this one failed
    pub(crate) fn compute(
        &self,
        adam: &mut Adam,
        scaler: &LossScaler,
        whole: &TrainTensors,
        rate: LearningRate<'_>,
        before: Option<&Tensor>,
    ) -> Result<Computed> {
        let Self { cfg, device, processes, .. } = *self;
        let n_parts = self.n_parts(whole.n() as usize);
        let part_size = whole.n() / n_parts as i64;
        let mut sums: Vec<(&'static str, Tensor)> = Vec::new();
        adam.zero_grad()?;
        for part in 0..n_parts as i64 {
            let part = whole.part(part * part_size, part_size);
            for (name, value) in self.add_gradients(&part, |loss| scaler.scale(&(loss / n_parts as f64)))? {
                match sums.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, sum)) => *sum += value,
                    None => sums.push((name, value)),
                }
            }
        }
        let _span = trace_span!("optimiser").entered();
        processes.mean(adam.grads())?;
        let mut failed = scaler.unscale(&adam.grads(), device)?;
        if let Some(before) = before {
            failed = failed.maximum(before);
        }
        if cfg.train.clip_norm > 0.0 {
            let _ = adam.clip(cfg.train.clip_norm);
        }
        match rate {
            LearningRate::Factor(factor) => adam.step_unless(factor, Some(&failed))?,
            LearningRate::OnDevice(factor) => adam.step_by_device(factor, &failed)?,
        }
        let names: Vec<&str> = sums.iter().map(|(name, _)| *name).collect();
        let values = sums.into_iter().map(|(_, sum)| sum / n_parts as f64).chain([failed.shallow_clone()]);
        let values: Vec<Tensor> = values.map(|value| value.to_kind(Kind::Double).view([])).collect();
        Ok(Computed { names, values: processes.mean_of(Tensor::stack(&values, 0))?, failed })
    }

    /// Forward and backward pass; returns the loss terms, and the total before `scaled`.
    fn add_gradients(
        &self,
        part: &TrainTensors,
        scaled: impl FnOnce(&Tensor) -> Tensor,
    ) -> Result<Vec<(&'static str, Tensor)>> {
        let Self { model, cfg, device, recompute, .. } = *self;
        let ids = Triplet { words: &part.words, positives: &part.positives, negatives: &part.negatives };
        let mut terms = Vec::new();
        let loss = |output: &TalentOutput| {
            let objective = objective(output, part, &cfg.loss);
            terms = objective.terms;
            terms.push(("total", objective.total.detach()));
            scaled(&objective.total)
        };
        if recompute {
            cfg.train.precision.apply()?;
            model.train_recomputing(&part.images, &ids, cfg.train.precision.kind(), loss)?;
        } else {
            let guard = cfg.train.precision.autocast(device)?;
            let lowered = Lowered::weights(cfg.train.precision.kind())?;
            let total = loss(&model.forward_train(&part.images, &ids));
            drop((guard, lowered));
            trace_span!("backward").in_scope(|| total.backward());
        }
        Ok(terms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::network::random_batch;
    use crate::optim::adam;
    use crate::processes::tests::DRAWING;
    use refcoco::SampleShape;

    /// Parameters by name.
    fn parameters(model: &Talent) -> Vec<Tensor> {
        model.trainable().into_iter().map(|(_, tensor)| tensor.detach().copy()).collect()
    }

    #[test]
    fn a_step_behind_a_failed_one_leaves_the_parameters_alone() {
        let cfg = Config::tiny();
        let model = {
            let _guard = DRAWING.lock().unwrap();
            Talent::seeded(&cfg.model, Device::Cpu, Kind::Float, 1).unwrap()
        };
        let (mut adam, processes) = (adam(&model, &cfg.train), Processes::default());
        let mut scaler = LossScaler::new(cfg.train.precision);
        let steps =
            Steps { model: &model, cfg: &cfg, device: Device::Cpu, processes: &processes, recompute: false };
        let shape =
            SampleShape { input_size: cfg.model.input_size as usize, word_len: cfg.model.word_len as usize };
        let good = random_batch(2, shape);
        let mut bad = random_batch(2, shape);
        bad.images[7] = f32::NAN;
        let start = parameters(&model);
        let same = |others: &[Tensor]| parameters(&model).iter().zip(others).all(|(a, b)| a.equal(b));

        let failed = steps.queue(&mut adam, &mut scaler, &bad, 1.0, None).unwrap();
        let behind = steps.queue(&mut adam, &mut scaler, &good, 1.0, Some(&failed)).unwrap();
        let report = failed.report().unwrap();
        assert!(!report.finite && !report.updated);
        assert!(!behind.report().unwrap().updated);
        assert!(same(&start));

        // The running statistics of batch norms are spoiled by now; those of a batch are not.
        let before = steps.queue(&mut adam, &mut scaler, &good, 1.0, None).unwrap();
        let report =
            steps.queue(&mut adam, &mut scaler, &good, 1.0, Some(&before)).unwrap().report().unwrap();
        assert!(report.finite && report.updated && before.report().unwrap().updated);
        assert!(!same(&start));
    }
}
