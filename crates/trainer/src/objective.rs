use talent::TalentOutput;
use tch::Tensor;
use tlm_losses::{contrastive_loss, segmentation_loss};
use tracing::trace_span;

use crate::batch::TrainTensors;
use crate::config::LossConfig;

/// The loss and its terms, each a scalar tensor.
#[derive(Debug)]
pub(crate) struct Objective {
    /// The weighted sum.
    pub(crate) total: Tensor,
    /// Unweighted terms by name; only those that are switched on.
    pub(crate) terms: Vec<(&'static str, Tensor)>,
}

/// Joins a pass's output with its targets: `seg + 0.1 cpcl + 0.1 tccl` in the official recipe.
pub(crate) fn objective(output: &TalentOutput, batch: &TrainTensors, cfg: &LossConfig) -> Objective {
    let mut terms = Vec::new();
    if cfg.seg > 0.0 {
        let seg = trace_span!("seg").in_scope(|| segmentation_loss(&output.logits, &batch.masks).total());
        terms.push(("seg", cfg.seg, seg));
    }
    if cfg.cpcl > 0.0 {
        let _span = trace_span!("cpcl").entered();
        let neck = &output.neck;
        terms.push(("cpcl", cfg.cpcl, cfg.consistency().mean_loss(&neck.fused, &neck.sentence)));
    }
    if let (true, Some([positive, negative])) = (cfg.tccl > 0.0, &output.contrast) {
        let _span = trace_span!("tccl").entered();
        let map = &output.neck.aggregated;
        terms.push((
            "tccl",
            cfg.tccl,
            contrastive_loss(map, positive, negative, &batch.valid, cfg.tccl_divisor),
        ));
    }
    let total = terms.iter().map(|(_, weight, term)| term * *weight).sum();
    Objective { total, terms: terms.into_iter().map(|(name, _, term)| (name, term.detach())).collect() }
}
