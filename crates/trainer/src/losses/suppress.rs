//! `suppress`: cross entropy on the pixels of distractors.

use tch::Tensor;
use tlm_losses::Suppression;
use tracing::trace_span;

use super::{Inputs, Loss, Needs};
use crate::config::LossConfig;

pub(super) struct Suppress;

impl Loss for Suppress {
    fn name(&self) -> &'static str {
        "suppress"
    }

    fn weight(&self) -> f64 {
        0.0
    }

    fn needs(&self) -> Needs {
        Needs::OBJECTS
    }

    fn term(&self, of: &Inputs<'_>, _: &LossConfig) -> Option<Tensor> {
        let _span = trace_span!("suppress").entered();
        let objects = of.batch.objects()?;
        Some(Suppression::default().loss(&of.output.logits, objects, of.processes.shared()))
    }
}
