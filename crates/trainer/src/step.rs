//! One optimiser step, the unit that training repeats and `bench step` times.

use anyhow::Result;
use refcoco::Batch;
use talent::{Talent, Triplet};
use tch::{Device, Kind, Tensor};
use torch_ext::{Adam, Download};
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

/// A step whose work the device has been asked for, if it has not done it already.
#[derive(Debug)]
pub(crate) struct QueuedStep {
    names: Vec<&'static str>,
    /// The losses, and whether the parameters were left alone.
    values: Download,
    /// One float32 on the device: 1 if this step or one before it left the parameters alone, otherwise 0.
    failed: Tensor,
}

impl QueuedStep {
    /// Waits for the step, not for work that was queued after it.
    pub(crate) fn report(self) -> Result<StepReport> {
        let mut values = Vec::<f64>::try_from(self.values.wait()?)?;
        let updated = values.pop() == Some(0.0);
        let finite = updated && values.iter().all(|value| value.is_finite());
        Ok(StepReport { losses: self.names.into_iter().zip(values).collect(), finite, updated })
    }
}

/// Forward pass, losses, backward pass, update; no update if a gradient is not finite. A GPU is not waited for: reading
/// the report after the next step is queued keeps it busy.
///
/// - batch: of several processes, this one's share; all end with the same gradients, losses and parameters
/// - factor: on the learning rates
/// - before: a step whose report is not known yet: if it failed, this one leaves the parameters alone, too
#[allow(clippy::too_many_arguments)]
pub(crate) fn train_step(
    model: &Talent,
    cfg: &Config,
    device: Device,
    processes: &Processes,
    adam: &mut Adam,
    scaler: &LossScaler,
    batch: &Batch,
    factor: f64,
    before: Option<&QueuedStep>,
) -> Result<QueuedStep> {
    let whole = trace_span!("data").in_scope(|| TrainTensors::new(batch, device, model.store().kind()))?;
    let n_parts = if batch.n.is_multiple_of(cfg.train.accumulate) { cfg.train.accumulate } else { 1 };
    let part_size = (batch.n / n_parts) as i64;
    let mut sums: Vec<(&'static str, Tensor)> = Vec::new();
    adam.zero_grad();
    for part in 0..n_parts as i64 {
        let part = whole.part(part * part_size, part_size);
        let objective = {
            let _guard = cfg.train.precision.autocast(device)?;
            let ids = Triplet { words: &part.words, positives: &part.positives, negatives: &part.negatives };
            objective(&model.forward_train(&part.images, &ids), &part, &cfg.loss)
        };
        trace_span!("backward").in_scope(|| scaler.scale(&(&objective.total / n_parts as f64)).backward());
        for (name, value) in objective.terms.into_iter().chain([("total", objective.total.detach())]) {
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
        failed = failed.maximum(&before.failed);
    }
    if cfg.train.clip_norm > 0.0 {
        let _ = adam.clip(cfg.train.clip_norm);
    }
    adam.step_unless(factor, Some(&failed))?;

    let names: Vec<&str> = sums.iter().map(|(name, _)| *name).collect();
    let values = sums.into_iter().map(|(_, sum)| sum / n_parts as f64).chain([failed.shallow_clone()]);
    let values: Vec<Tensor> = values.map(|value| value.to_kind(Kind::Double).view([])).collect();
    let values = Download::start(&processes.mean_of(Tensor::stack(&values, 0))?)?;
    Ok(QueuedStep { names, values, failed })
}
