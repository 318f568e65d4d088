//! Mixed precision: autocast and the loss scaler of float16.

use anyhow::Result;
use tch::{Device, Kind};
use torch_ext::{Autocast, allow_tf32};

use crate::config::Precision;

impl Precision {
    /// The dtype of matrix products.
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::Fp32 | Self::Tf32 => Kind::Float,
            Self::Bf16 => Kind::BFloat16,
            Self::Fp16 => Kind::Half,
        }
    }

    /// Allows TF32 or not, from here on: backward passes, too, run outside of [`Precision::autocast`]'s guard.
    pub(crate) fn apply(self) -> Result<()> {
        Ok(allow_tf32(self == Self::Tf32)?)
    }

    /// The guard to hold during forward pass and loss.
    pub(crate) fn autocast(self, device: Device) -> Result<Autocast> {
        self.apply()?;
        Ok(Autocast::enable(device, self.kind())?)
    }

    /// The dtype that matrix products really run in under [`Precision::autocast`], for the run's record.
    pub(crate) fn measured_kind(self, device: Device) -> Result<String> {
        let _guard = self.autocast(device)?;
        let kind = Autocast::matmul_kind(device)?;
        let rounded = self == Self::Tf32 && device.is_cuda();
        Ok(format!("{kind:?}{}", if rounded { " (TF32)" } else { "" }))
    }
}

/// PyTorch's defaults.
const START: f64 = 65536.0;
const GROWTH: f64 = 2.0;
const BACKOFF: f64 = 0.5;
const GROWTH_INTERVAL: u64 = 2000;

/// Keeps float16 gradients in range: the loss is multiplied by a scale that halves when a gradient overflows (that
/// step is skipped) and doubles after 2000 steps without.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct LossScaler {
    enabled: bool,
    scale: f64,
    good_steps: u64,
    /// Steps skipped so far.
    pub(crate) skipped: u64,
}

impl LossScaler {
    pub(crate) fn new(precision: Precision) -> Self {
        let enabled = precision == Precision::Fp16;
        Self { enabled, scale: if enabled { START } else { 1.0 }, good_steps: 0, skipped: 0 }
    }

    /// What the loss is multiplied by.
    pub(crate) fn scale(&self) -> f64 {
        self.scale
    }

    /// Whether a step with gradients that are not finite is part of the scaler's work rather than a failure.
    pub(crate) fn may_skip(&self) -> bool {
        self.enabled
    }

    /// Adapts the scale after a step.
    pub(crate) fn update(&mut self, finite: bool) {
        if !self.enabled {
            return;
        }
        if !finite {
            self.scale *= BACKOFF;
            self.good_steps = 0;
            self.skipped += 1;
        } else {
            self.good_steps += 1;
            if self.good_steps == GROWTH_INTERVAL {
                self.scale *= GROWTH;
                self.good_steps = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_halves_on_overflow_and_doubles_after_a_while() {
        let mut scaler = LossScaler::new(Precision::Fp16);
        scaler.update(false);
        assert_eq!((scaler.scale, scaler.skipped), (32768.0, 1));
        for _ in 0..GROWTH_INTERVAL {
            scaler.update(true);
        }
        assert_eq!(scaler.scale, 65536.0);
    }
}
