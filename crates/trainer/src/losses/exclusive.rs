//! `exclusive`: expressions of a batch about different objects of one image must not share pixels.

use tch::Tensor;
use tlm_losses::Exclusivity;
use tracing::trace_span;

use super::{Inputs, Loss, Needs};
use crate::config::LossConfig;

pub(super) struct Exclusive;

impl Loss for Exclusive {
    fn name(&self) -> &'static str {
        "exclusive"
    }

    fn needs(&self) -> Needs {
        Needs::RIVALS
    }

    fn term(&self, of: &Inputs<'_>, _: &LossConfig) -> Option<Tensor> {
        let _span = trace_span!("exclusive").entered();
        let (logits, batch) = (&of.output.logits, of.batch);
        Some(Exclusivity::default().loss(logits, &batch.masks, &batch.image_of(), of.processes.shared()))
    }
}
