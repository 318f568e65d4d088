use std::sync::Arc;

use tch::Tensor;

use super::Mode;
use crate::across::{self, Processes};
use crate::init::Init;
use crate::store::Path;

/// Share of the batch's statistics in an update of the running ones (PyTorch's default).
const MOMENTUM: f64 = 0.1;

/// Batch normalisation over axis 1, affine, with running statistics.
#[derive(Debug)]
pub struct BatchNorm {
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    num_batches_tracked: Tensor,
    eps: f64,
}

impl BatchNorm {
    /// Registers `weight, bias, running_mean, running_var, num_batches_tracked`.
    pub fn new(path: &Path, channels: i64, eps: f64) -> Self {
        Self {
            weight: path.parameter("weight", &[channels], Init::Const(1.0)),
            bias: path.parameter("bias", &[channels], Init::Const(0.0)),
            running_mean: path.buffer("running_mean", &[channels], 0.0),
            running_var: path.buffer("running_var", &[channels], 1.0),
            num_batches_tracked: path.counter("num_batches_tracked"),
            eps,
        }
    }

    /// - xs: `[batch, channels, ...]`
    ///
    /// Training normalises with the batch's biased variance and moves the running statistics (unbiased variance)
    /// towards the batch's by a tenth. The batch is that of all processes which [`across`] knows of.
    pub fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        if mode.is_train() {
            let _ = self.num_batches_tracked.shallow_clone().g_add_scalar_(1);
            if let Some(processes) = across::others() {
                return self.forward_across(xs, &processes);
            }
        }
        xs.batch_norm(
            Some(&self.weight),
            Some(&self.bias),
            Some(&self.running_mean),
            Some(&self.running_var),
            mode.is_train(),
            MOMENTUM,
            self.eps,
            true,
        )
    }

    /// Mean and variance over all processes, each of two sums: first of the values, then of the squared distances to the mean,
    /// which keeps the digits that the mean of squares less the squared mean would lose.
    fn forward_across(&self, xs: &Tensor, processes: &Arc<dyn Processes>) -> Tensor {
        let kind = self.running_mean.kind();
        let wide = xs.to_kind(kind);
        let axes: Vec<i64> = (0..wide.dim() as i64).filter(|&axis| axis != 1).collect();
        let shape: Vec<i64> = (0..wide.dim()).map(|axis| if axis == 1 { -1 } else { 1 }).collect();
        let over_batch = |xs: &Tensor| xs.sum_dim_intlist(axes.as_slice(), false, None);
        let channels = self.running_mean.size()[0];
        let own = wide.numel() as f64 / channels as f64;
        // Counts and sums travel together.
        let count = Tensor::full([1], own, (kind, wide.device()));
        let sums = across::sum(processes, &Tensor::cat(&[over_batch(&wide), count], 0));
        let (sums, count) = (sums.narrow(0, 0, channels), sums.narrow(0, channels, 1).detach());
        let mean = sums / &count;
        let centred = wide - mean.view(shape.as_slice());
        let squares = across::sum(processes, &over_batch(&centred.square()));
        let variance = &squares / &count;
        tch::no_grad(|| {
            let unbiased = squares.detach() / (count - 1.0_f64).clamp_min(1.0);
            for (running, new) in [(&self.running_mean, mean.detach()), (&self.running_var, unbiased)] {
                let _ = running.shallow_clone().g_mul_scalar_(1.0 - MOMENTUM).g_add_(&(new * MOMENTUM));
            }
        });
        let scale = (variance + self.eps).rsqrt() * &self.weight;
        (centred * scale.view(shape.as_slice()) + self.bias.view(shape.as_slice())).to_kind(xs.kind())
    }
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
    pub fn new(path: &Path, width: i64, eps: f64) -> Self {
        Self {
            weight: path.parameter("weight", &[width], Init::Const(1.0)),
            bias: path.parameter("bias", &[width], Init::Const(0.0)),
            eps,
        }
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
        let _ = norm.forward(&xs, Mode::Eval);
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
