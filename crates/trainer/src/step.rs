//! One optimiser step, the unit that training repeats and `bench step` times.

use anyhow::Result;
use refcoco::Batch;
use talent::{Talent, Triplet};
use tch::Device;
use torch_ext::Adam;
use tracing::trace_span;

use crate::batch::TrainTensors;
use crate::config::Config;
use crate::objective::objective;
use crate::precision::LossScaler;

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

/// Forward pass, losses, backward pass, update. Without an update if a gradient is not finite.
///
/// - factor: on the learning rates
pub(crate) fn train_step(
    model: &Talent,
    cfg: &Config,
    device: Device,
    adam: &mut Adam,
    scaler: &mut LossScaler,
    batch: &Batch,
    factor: f64,
) -> Result<StepReport> {
    let whole = trace_span!("data").in_scope(|| TrainTensors::new(batch, device));
    let n_parts = if batch.n.is_multiple_of(cfg.train.accumulate) { cfg.train.accumulate } else { 1 };
    let part_size = (batch.n / n_parts) as i64;
    let mut losses: Vec<(&'static str, f64)> = Vec::new();
    adam.zero_grad();
    for part in 0..n_parts as i64 {
        let part = whole.part(part * part_size, part_size);
        let objective = {
            let _guard = cfg.train.precision.autocast(device)?;
            let ids = Triplet { words: &part.words, positives: &part.positives, negatives: &part.negatives };
            objective(&model.forward_train(&part.images, &ids), &part, &cfg.loss)
        };
        trace_span!("backward")
            .in_scope(|| scaler.scale(&(&objective.total / n_parts as f64)).backward());
        let values =
            objective.terms.iter().map(|(name, term)| (*name, term)).chain([("total", &objective.total)]);
        for (name, value) in values {
            let value = f64::try_from(value)? / n_parts as f64;
            match losses.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += value,
                None => losses.push((name, value)),
            }
        }
    }
    let _span = trace_span!("optimiser").entered();
    let finite_gradients = scaler.unscale(&adam.grads(), device)?;
    if finite_gradients {
        if cfg.train.clip_norm > 0.0 {
            adam.clip(cfg.train.clip_norm)?;
        }
        adam.step(factor)?;
    }
    scaler.update(finite_gradients);
    let finite = finite_gradients && losses.iter().all(|(_, value)| value.is_finite());
    Ok(StepReport { losses, finite, updated: finite_gradients })
}
