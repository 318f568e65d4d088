//! One optimiser step, the unit that training repeats and `bench step` times.

use anyhow::Result;
use refcoco::Batch;
use talent::{Talent, Triplet};
use tch::{Device, Kind, Tensor};
use torch_ext::Adam;
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

/// Forward pass, losses, backward pass, update; no update if a gradient is not finite. A GPU is waited for once, when all
/// of it is queued.
///
/// - batch: of several processes, this one's share; all end with the same gradients, losses and parameters
/// - factor: on the learning rates
#[allow(clippy::too_many_arguments)]
pub(crate) fn train_step(
    model: &Talent,
    cfg: &Config,
    device: Device,
    processes: &Processes,
    adam: &mut Adam,
    scaler: &mut LossScaler,
    batch: &Batch,
    factor: f64,
) -> Result<StepReport> {
    let whole = trace_span!("data").in_scope(|| TrainTensors::new(batch, device, model.store().kind()));
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
    let found_inf = scaler.unscale(&adam.grads(), device)?;
    if cfg.train.clip_norm > 0.0 {
        let _ = adam.clip(cfg.train.clip_norm);
    }
    adam.step_unless(factor, Some(&found_inf))?;

    let names: Vec<&str> = sums.iter().map(|(name, _)| *name).collect();
    let values = sums.into_iter().map(|(_, sum)| sum / n_parts as f64).chain([found_inf]);
    let values: Vec<Tensor> = values.map(|value| value.to_kind(Kind::Double).view([])).collect();
    let mut values = Vec::<f64>::try_from(processes.mean_of(Tensor::stack(&values, 0))?)?;
    let updated = values.pop() == Some(0.0);
    scaler.update(updated);
    let finite = updated && values.iter().all(|value| value.is_finite());
    Ok(StepReport { losses: names.into_iter().zip(values).collect(), finite, updated })
}
