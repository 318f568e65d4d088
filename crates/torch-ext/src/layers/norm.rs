use std::sync::Arc;

use tch::Tensor;

use super::Mode;
use super::norm_across::{Statistics, normalise};
use crate::across::{Processes, Together};
use crate::init::Init;
use crate::shim;
use crate::store::{Counter, ParamPath};

/// Weight of the batch statistics in an update of the running statistics (PyTorch's default).
const MOMENTUM: f64 = 0.1;

/// Batch normalisation over axis 1, affine, with running statistics.
#[derive(Debug)]
pub struct BatchNorm {
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    num_batches_tracked: Counter,
    together: Together,
    eps: f64,
}

impl BatchNorm {
    /// Registers `weight, bias, running_mean, running_var, num_batches_tracked`.
    pub fn new(path: &ParamPath, channels: i64, eps: f64) -> Self {
        Self {
            weight: path.parameter("weight", &[channels], Init::Const(1.0)),
            bias: path.parameter("bias", &[channels], Init::Const(0.0)),
            running_mean: path.buffer("running_mean", &[channels], 0.0),
            running_var: path.buffer("running_var", &[channels], 1.0),
            num_batches_tracked: path.counter("num_batches_tracked"),
            together: path.together(),
            eps,
        }
    }

    /// - xs: `[batch, channels, ...]`
    ///
    /// Training normalises with the batch's biased variance and moves the running statistics (unbiased variance) towards the
    /// batch statistics with momentum 0.1. If several processes share the batch ([`Together`]), the statistics are those of
    /// the whole batch (SyncBatchNorm).
    pub fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        if mode == Mode::Train {
            self.num_batches_tracked.advance();
        }
        if let (true, Some(processes)) = (mode.is_train(), self.together.others()) {
            return self.forward_across(xs, mode, &processes);
        }
        // A recomputation gets no running statistics, so that it cannot update them a second time.
        let running = (mode != Mode::Recompute).then_some((&self.running_mean, &self.running_var));
        xs.batch_norm(
            Some(&self.weight),
            Some(&self.bias),
            running.map(|(mean, _)| mean),
            running.map(|(_, variance)| variance),
            mode.is_train(),
            MOMENTUM,
            self.eps,
            true,
        )
    }

    /// As [`BatchNorm::forward`], followed by ReLU.
    pub fn forward_relu(&self, xs: &Tensor, mode: Mode) -> Tensor {
        let mut normed = self.forward(xs, mode);
        // In place where it can be: the normalisation's gradient needs its input, not its result. That of a custom gradient cannot be
        // changed.
        let across = mode.is_train() && self.together.others().is_some();
        if across { normed.relu() } else { normed.relu_() }
    }

    fn forward_across(&self, xs: &Tensor, mode: Mode, processes: &Arc<dyn Processes>) -> Tensor {
        let statistics = tch::no_grad(|| {
            let wide = xs.to_kind(self.running_mean.kind());
            let statistics = Statistics::of(&wide, &**processes);
            if mode == Mode::Recompute {
                return statistics;
            }
            let unbiased = &statistics.squares / (&statistics.count - 1.0_f64).clamp_min(1.0);
            for (running, new) in [(&self.running_mean, &statistics.mean), (&self.running_var, &unbiased)] {
                let _ = running.shallow_clone().g_mul_scalar_(1.0 - MOMENTUM).g_add_(&(new * MOMENTUM));
            }
            statistics
        });
        normalise(xs, [&self.weight, &self.bias], &statistics, self.eps, processes)
    }
}

/// `xs + update * scale` with one scale per channel: a residual connection with LayerScale. It is one operation, even if
/// `update` has another dtype after autocast.
///
/// - in_dtype: whether the result has the dtype of `xs`; otherwise it has the widest dtype of the three
///
/// # Panics
/// Like tch's own operations: when the shapes do not fit together.
pub fn scaled_sum(xs: &Tensor, update: &Tensor, scale: &Tensor, in_dtype: bool) -> Tensor {
    shim::measure::scaled_sum(xs, update, scale, in_dtype).unwrap_or_else(|error| panic!("{error}"))
}

/// Layer normalisation over the last axis, affine.
#[derive(Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// Registers `weight` and `bias`.
    pub fn new(path: &ParamPath, width: i64, eps: f64) -> Self {
        Self {
            weight: path.parameter("weight", &[width], Init::Const(1.0)),
            bias: path.parameter("bias", &[width], Init::Const(0.0)),
            eps,
        }
    }

    /// As [`LayerNorm::forward`], but the result has the dtype of `xs` under autocast too, which would choose float32. Sums are
    /// always accumulated in float32.
    ///
    /// # Panics
    /// Like tch's own operations: when the shapes do not fit together.
    pub fn forward_in_dtype(&self, xs: &Tensor) -> Tensor {
        shim::measure::layer_norm(xs, &self.weight, &self.bias, self.eps)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// - xs: `[..., width]`
    pub fn forward(&self, xs: &Tensor) -> Tensor {
        xs.layer_norm(self.weight.size(), Some(&self.weight), Some(&self.bias), self.eps, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;
    use tch::{Device, Kind};

    #[test]
    fn running_statistics_move_by_a_tenth() {
        let store = Store::new(Device::Cpu, Kind::Float);
        let norm = BatchNorm::new(&store.root(), 1, 1e-3);
        // Mean 2, biased variance 1, unbiased variance 2.
        let xs = Tensor::from_slice(&[1.0_f32, 3.0]).view([2, 1]);
        let out = Vec::<f32>::try_from(norm.forward(&xs, Mode::Train).view([2])).unwrap();
        let expected = 1.0 / (1.0_f32 + 1e-3).sqrt();
        assert!((out[1] - expected).abs() < 1e-6 && (out[0] + expected).abs() < 1e-6);
        let value = |name: &str| f64::try_from(store.get(name).unwrap()).unwrap();
        assert!((value("running_mean") - 0.2).abs() < 1e-6);
        assert!((value("running_var") - 1.1).abs() < 1e-6);
        assert_eq!(value("num_batches_tracked"), 1.0);
        let evaluated = norm.forward(&xs, Mode::Eval);
        assert!(norm.forward_relu(&xs, Mode::Eval).equal(&evaluated.relu()));
        assert!(norm.forward_relu(&xs, Mode::Recompute).equal(&norm.forward(&xs, Mode::Recompute).relu()));
        assert!(norm.forward(&xs, Mode::Recompute).equal(&Tensor::from_slice(&out).view([2, 1])));
        assert!((value("running_mean") - 0.2).abs() < 1e-6);
        assert_eq!(value("num_batches_tracked"), 1.0);
    }

    #[test]
    fn layer_norm_by_hand() {
        let store = Store::new(Device::Cpu, Kind::Double);
        let norm = LayerNorm::new(&store.root(), 2, 3.0);
        // Mean 2, variance 1, so (x - 2) / sqrt(1 + 3).
        let out = norm.forward(&Tensor::from_slice(&[1.0, 3.0]));
        assert_eq!(Vec::<f64>::try_from(out).unwrap(), [-0.5, 0.5]);
    }
}
