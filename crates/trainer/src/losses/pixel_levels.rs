//! `pixel_levels`: of all positions of the neck's levels, those of the target must answer most to the sentence.

use tch::Tensor;
use tlm_losses::{PixelContrast, PixelContrastConfig};
use tracing::trace_span;

use super::{Inputs, Loss, Setting};
use crate::config::LossConfig;

pub(super) struct PixelLevels;

const SETTINGS: &[Setting] = &[Setting {
    key: "pixel_levels_temperature",
    default: 0.1,
    is_whole: false,
    allows: |value| value > 0.0,
    expected: "positive",
}];

impl Loss for PixelLevels {
    fn name(&self) -> &'static str {
        "pixel_levels"
    }

    fn settings(&self) -> &'static [Setting] {
        SETTINGS
    }

    fn term(&self, of: &Inputs<'_>, cfg: &LossConfig) -> Option<Tensor> {
        let _span = trace_span!("pixel levels").entered();
        let contrast = PixelContrast::new(PixelContrastConfig { temperature: cfg.get(SETTINGS[0].key) });
        let (neck, masks, processes) = (&of.output.neck, &of.batch.masks, of.processes.shared());
        let losses = neck.fused.iter().map(|level| contrast.loss(level, &neck.sentence, masks, processes));
        Some(losses.sum::<Tensor>() / neck.fused.len() as f64)
    }
}
