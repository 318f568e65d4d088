use tch::Tensor;
use torch_ext::layers::{BatchNorm, Conv2d, ConvConfig, Mode};
use torch_ext::{Init, ParamPath};

/// Epsilon of the batch normalisations in neck and projector.
pub(crate) const HEAD_NORM_EPS: f64 = 1e-5;

/// Convolution without bias, batch normalisation (eps 1e-5), ReLU: `0.weight`, `1.*`.
#[derive(Debug)]
pub struct ConvBlock {
    conv: Conv2d,
    norm: BatchNorm,
}

impl ConvBlock {
    /// A block with an odd kernel and "same" padding. Weights are initialised uniformly in -b..b with b = `1 / sqrt(fan_in)`.
    pub fn new(path: &ParamPath, n_in: i64, n_out: i64, kernel: i64) -> Self {
        let weight = Init::Uniform(1.0 / ((n_in * kernel * kernel) as f64).sqrt());
        let cfg = ConvConfig { n_in, n_out, kernel, weight, bias: None };
        Self { conv: Conv2d::new(&(path / 0), cfg), norm: BatchNorm::new(&(path / 1), n_out, HEAD_NORM_EPS) }
    }

    /// - xs: `[batch, in, height, width]`, result `[batch, out, height, width]`, not negative
    pub fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        self.norm.forward_relu(&self.conv.forward(xs), mode)
    }
}
