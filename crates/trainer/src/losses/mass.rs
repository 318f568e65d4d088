//! `mass`: the share of the probability that lies on distractors.

use tch::Tensor;
use tlm_losses::DistractorMass;
use tracing::trace_span;

use super::{Inputs, Loss, Needs};
use crate::config::LossConfig;

pub(super) struct Mass;

impl Loss for Mass {
    fn name(&self) -> &'static str {
        "mass"
    }

    fn needs(&self) -> Needs {
        Needs::OBJECTS
    }

    fn term(&self, of: &Inputs<'_>, _: &LossConfig) -> Option<Tensor> {
        let _span = trace_span!("mass").entered();
        let objects = of.batch.objects()?;
        Some(DistractorMass::default().loss(&of.output.logits, objects, of.processes.shared()))
    }
}
