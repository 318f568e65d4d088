//! `instance` and its kin: among the objects of its category the target must answer most to the sentence, in the logits, in
//! feature maps on the way to them, or in the adapters.

use talent::TalentOutput;
use tch::Tensor;
use tlm_losses::{InstanceContrast, InstanceContrastConfig};
use tracing::trace_span;

use super::{Inputs, Loss, Needs, Setting};
use crate::config::LossConfig;

/// On the logits.
pub(super) struct Instance;

/// On the responses of the visual adapters' cross-modal units.
pub(super) struct Adapters;

/// On feature maps, compared with the projected sentence.
pub(super) struct OfFeatures {
    name: &'static str,
    settings: &'static [Setting],
    /// The maps, `[batch, C, H, W]` each; the loss is the mean over them.
    maps: fn(&TalentOutput) -> Vec<&Tensor>,
}

/// The neck's three levels behind their cross-modal units.
pub(super) const LEVELS: OfFeatures = OfFeatures {
    name: "instance_levels",
    settings: OF_LEVELS,
    maps: |output| output.neck.fused.iter().collect(),
};

/// The neck's aggregated map.
pub(super) const NECK: OfFeatures =
    OfFeatures { name: "instance_neck", settings: OF_NECK, maps: |output| vec![&output.neck.aggregated] };

/// The decoder's output.
pub(super) const DECODER: OfFeatures =
    OfFeatures { name: "instance_decoder", settings: OF_DECODER, maps: |output| vec![&output.decoded] };

const fn temperature(key: &'static str, default: f64) -> Setting {
    Setting { key, default, is_whole: false, allows: |value| value > 0.0, expected: "positive" }
}

// Temperatures that divide the scores: means of logits or of dot products, and cosines.
const OF_LOGITS: &[Setting] = &[temperature("instance_temperature", 1.0)];
const OF_ADAPTERS: &[Setting] = &[temperature("instance_adapters_temperature", 1.0)];
const OF_LEVELS: &[Setting] = &[temperature("instance_levels_temperature", 0.1)];
const OF_NECK: &[Setting] = &[temperature("instance_neck_temperature", 0.1)];
const OF_DECODER: &[Setting] = &[temperature("instance_decoder_temperature", 0.1)];

fn contrast(cfg: &LossConfig, settings: &[Setting]) -> InstanceContrast {
    InstanceContrast::new(InstanceContrastConfig { temperature: cfg.get(settings[0].key) })
}

impl Loss for Instance {
    fn name(&self) -> &'static str {
        "instance"
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

impl Loss for Adapters {
    fn name(&self) -> &'static str {
        "instance_adapters"
    }

    fn settings(&self) -> &'static [Setting] {
        OF_ADAPTERS
    }

    fn needs(&self) -> Needs {
        Needs::ADAPTERS
    }

    fn term(&self, of: &Inputs<'_>, cfg: &LossConfig) -> Option<Tensor> {
        let _span = trace_span!("instance adapters").entered();
        let (objects, processes) = (of.batch.objects()?, of.processes.shared());
        let contrast = contrast(cfg, OF_ADAPTERS);
        let losses = of.adapters.iter().map(|response| {
            let (n, side) = (response.size()[0], response.size()[1].isqrt());
            contrast.of_responses(&response.view([n, side, side]), objects, processes)
        });
        let total = losses.reduce(|sum, loss| sum + loss)?;
        Some(total / of.adapters.len() as f64)
    }
}

impl Loss for OfFeatures {
    fn name(&self) -> &'static str {
        self.name
    }

    fn settings(&self) -> &'static [Setting] {
        self.settings
    }

    fn needs(&self) -> Needs {
        Needs::OBJECTS
    }

    fn term(&self, of: &Inputs<'_>, cfg: &LossConfig) -> Option<Tensor> {
        let _span = trace_span!("instance features").entered();
        let (objects, processes) = (of.batch.objects()?, of.processes.shared());
        let (contrast, sentence) = (contrast(cfg, self.settings), &of.output.neck.sentence);
        let maps = (self.maps)(of.output);
        let n = maps.len() as f64;
        let losses = maps.into_iter().map(|map| contrast.of_features(map, sentence, objects, processes));
        Some(losses.sum::<Tensor>() / n)
    }
}
