//! `seg`: cross entropy plus soft IoU.

use tch::Tensor;
use tlm_losses::Segmentation;
use tracing::trace_span;

use super::{Inputs, Loss};
use crate::config::LossConfig;

pub(super) struct Seg;

impl Loss for Seg {
    fn name(&self) -> &'static str {
        "seg"
    }

    fn weight(&self) -> f64 {
        1.0
    }

    fn term(&self, of: &Inputs<'_>, _: &LossConfig) -> Option<Tensor> {
        let _span = trace_span!("seg").entered();
        Some(Segmentation::default().loss(&of.output.logits, &of.batch.masks).total())
    }
}
