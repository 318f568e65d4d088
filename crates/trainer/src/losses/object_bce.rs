//! `object_bce`: cross entropy on the objects of the target's category, each of which counts alike.

use tch::Tensor;
use tlm_losses::{ObjectEntropy, ObjectEntropyConfig};
use tracing::trace_span;

use super::{Inputs, Loss, Needs, Setting};
use crate::config::LossConfig;

pub(super) struct ObjectBce;

const SETTINGS: &[Setting] = &[
    // Weight of the target beside that of all distractors together; 0 only pushes distractors down.
    Setting {
        key: "object_bce_target",
        default: 1.0,
        is_whole: false,
        allows: |value| value >= 0.0,
        expected: "0 or more",
    },
];

impl Loss for ObjectBce {
    fn name(&self) -> &'static str {
        "object_bce"
    }

    fn settings(&self) -> &'static [Setting] {
        SETTINGS
    }

    fn needs(&self) -> Needs {
        Needs::OBJECTS
    }

    fn term(&self, of: &Inputs<'_>, cfg: &LossConfig) -> Option<Tensor> {
        let _span = trace_span!("object_bce").entered();
        let entropy = ObjectEntropy::new(ObjectEntropyConfig { target_weight: cfg.get("object_bce_target") });
        Some(entropy.loss(&of.output.logits, of.batch.objects()?, of.processes.shared()))
    }
}
