//! `instance` and `instance_neck`: among the objects of its category the target must answer most to the sentence, in the logits or
//! in the neck's aggregated map.

use tch::Tensor;
use tlm_losses::{InstanceContrast, InstanceContrastConfig};
use tracing::trace_span;

use super::{Inputs, Loss, Needs, Setting};
use crate::config::LossConfig;

/// On the logits.
pub(super) struct Instance;

/// On the neck's aggregated map, compared with the projected sentence.
pub(super) struct InstanceNeck;

const fn temperature(key: &'static str, default: f64) -> Setting {
    Setting { key, default, is_whole: false, allows: |value| value > 0.0, expected: "positive" }
}

// Temperatures that divide the scores: means of logits, and cosines.
const OF_LOGITS: &[Setting] = &[temperature("instance_temperature", 1.0)];
const OF_NECK: &[Setting] = &[temperature("instance_neck_temperature", 0.1)];

fn contrast(cfg: &LossConfig, settings: &[Setting]) -> InstanceContrast {
    InstanceContrast::new(InstanceContrastConfig { temperature: cfg.get(settings[0].key) })
}

impl Loss for Instance {
    fn name(&self) -> &'static str {
        "instance"
    }

    fn weight(&self) -> f64 {
        0.0
    }

    fn settings(&self) -> &'static [Setting] {
        OF_LOGITS
    }

    fn needs(&self) -> Needs {
        Needs::OBJECTS
    }

    fn term(&self, of: &Inputs<'_>, cfg: &LossConfig) -> Option<Tensor> {
        let _span = trace_span!("instance").entered();
        let (objects, processes) = (of.batch.objects()?, of.processes.shared());
        let logits = of.output.logits.squeeze_dim(1);
        Some(contrast(cfg, OF_LOGITS).of_responses(&logits, objects, processes))
    }
}

impl Loss for InstanceNeck {
    fn name(&self) -> &'static str {
        "instance_neck"
    }

    fn weight(&self) -> f64 {
        0.0
    }

    fn settings(&self) -> &'static [Setting] {
        OF_NECK
    }

    fn needs(&self) -> Needs {
        Needs::OBJECTS
    }

    fn term(&self, of: &Inputs<'_>, cfg: &LossConfig) -> Option<Tensor> {
        let _span = trace_span!("instance_neck").entered();
        let (objects, processes) = (of.batch.objects()?, of.processes.shared());
        let neck = &of.output.neck;
        Some(contrast(cfg, OF_NECK).of_features(&neck.aggregated, &neck.sentence, objects, processes))
    }
}
