//! Mixed precision: autocast, and loss scaling for float16.

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

    /// Allows or forbids TF32 from here on, also outside of [`Precision::autocast`]'s guard, where backward passes run.
    pub(crate) fn apply(self) -> Result<()> {
        Ok(allow_tf32(self == Self::Tf32)?)
    }

    /// Turns on autocast; hold the returned guard during forward pass and loss.
    pub(crate) fn autocast(self, device: Device) -> Result<Autocast> {
        self.apply()?;
        Ok(Autocast::enable(device, self.kind())?)
    }

    /// Why this precision takes longer than float32 on a device, if it does.
    pub(crate) fn slowness(self, device: Device) -> Option<&'static str> {
        match self {
            Self::Fp16 if device == Device::Cpu => {
                Some("float16 takes several times as long as float32 on a CPU; it is meant for GPUs")
            }
            Self::Bf16 if device == Device::Cpu && !multiplies_bf16() => Some(
                "this processor has no instructions for bfloat16, which takes several times as long as float32 here",
            ),
            _ => None,
        }
    }

    /// The dtype that matrix products actually run in under [`Precision::autocast`], for the run's record.
    pub(crate) fn measured_kind(self, device: Device) -> Result<String> {
        let _guard = self.autocast(device)?;
        let kind = Autocast::matmul_kind(device)?;
        let rounded = self == Self::Tf32 && device.is_cuda();
        Ok(format!("{kind:?}{}", if rounded { " (TF32)" } else { "" }))
    }
}

/// Whether the processor has instructions for products of bfloat16 (AVX-512 BF16; every processor with AMX has them, too).
#[cfg(target_arch = "x86_64")]
fn multiplies_bf16() -> bool {
    std::is_x86_feature_detected!("avx512bf16")
}

/// Not asked on other processors.
#[cfg(not(target_arch = "x86_64"))]
fn multiplies_bf16() -> bool {
    true
}

/// Initial loss scale and its updates: PyTorch's defaults.
const START: f64 = 65536.0;
const GROWTH: f64 = 2.0;
const BACKOFF: f64 = 0.5;
const GROWTH_INTERVAL: u64 = 2000;

/// Dynamic loss scaling, which keeps float16 gradients in range. The loss is multiplied by a scale. The scale halves when a
/// gradient overflows (that step is skipped) and doubles after 2000 steps without overflow.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct LossScaler {
    enabled: bool,
    scale: f64,
    good_steps: u64,
    /// Number of steps skipped so far.
    pub(crate) skipped: u64,
}

impl LossScaler {
    pub(crate) fn new(precision: Precision) -> Self {
        let enabled = precision == Precision::Fp16;
        Self { enabled, scale: if enabled { START } else { 1.0 }, good_steps: 0, skipped: 0 }
    }

    /// The factor that the loss is multiplied by.
    pub(crate) fn scale(&self) -> f64 {
        self.scale
    }

    /// Whether a step with non-finite gradients is skipped instead of being an error.
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

    #[test]
    fn what_is_slower_than_float32() {
        let gpu = Device::Cuda(0);
        let all = [Precision::Fp32, Precision::Tf32, Precision::Bf16, Precision::Fp16];
        assert!(all.iter().all(|precision| precision.slowness(gpu).is_none()));
        let on_cpu = all.map(|precision| precision.slowness(Device::Cpu).is_some());
        assert_eq!(on_cpu, [false, false, !multiplies_bf16(), true]);
    }
}
