use tch::Tensor;

use crate::init::Init;
use crate::lowered::lowered;
use crate::store::ParamPath;

/// Initialisation of a convolution's bias. `None` for no bias.
pub type ConvBiasInit = Option<Init>;

/// Sizes and initialisation of a convolution with stride 1 and "same" zero padding (odd kernels).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ConvConfig {
    /// Input channels.
    pub n_in: i64,
    /// Output channels.
    pub n_out: i64,
    /// Kernel side, odd.
    pub kernel: i64,
    /// Initialisation of the weight.
    pub weight: Init,
    /// Initialisation of the bias; `None` for no bias.
    pub bias: ConvBiasInit,
}

/// One-dimensional convolution, weight `[out, in, kernel]`.
#[derive(Debug)]
pub struct Conv1d {
    weight: Tensor,
    bias: Option<Tensor>,
    padding: i64,
}

impl Conv1d {
    /// Registers `weight` and, if configured, `bias`.
    pub fn new(path: &ParamPath, cfg: ConvConfig) -> Self {
        Self {
            weight: path.parameter("weight", &[cfg.n_out, cfg.n_in, cfg.kernel], cfg.weight),
            bias: cfg.bias.map(|init| path.parameter("bias", &[cfg.n_out], init)),
            padding: cfg.kernel / 2,
        }
    }

    /// - xs: `[batch, in, length]`, result `[batch, out, length]`
    pub fn forward(&self, xs: &Tensor) -> Tensor {
        let bias = self.bias.as_ref().map(lowered);
        xs.conv1d(&lowered(&self.weight), bias, 1, self.padding, 1, 1)
    }
}

/// Two-dimensional convolution, weight `[out, in, kernel, kernel]`.
#[derive(Debug)]
pub struct Conv2d {
    weight: Tensor,
    bias: Option<Tensor>,
    padding: i64,
}

impl Conv2d {
    /// Registers `weight` and, if configured, `bias`.
    pub fn new(path: &ParamPath, cfg: ConvConfig) -> Self {
        Self {
            weight: path.parameter("weight", &[cfg.n_out, cfg.n_in, cfg.kernel, cfg.kernel], cfg.weight),
            bias: cfg.bias.map(|init| path.parameter("bias", &[cfg.n_out], init)),
            padding: cfg.kernel / 2,
        }
    }

    /// A 1x1 convolution as a linear layer: weight matrix `[out, in]` and bias `[out]`.
    pub fn matrix(&self) -> (Tensor, Option<Tensor>) {
        (lowered(&self.weight).flatten(1, 3), self.bias.as_ref().map(lowered))
    }

    /// Applies the transposed matrix of a 1x1 kernel, without bias.
    ///
    /// - xs: `[batch, out, height, width]`, result `[batch, in, height, width]`
    pub fn forward_transposed(&self, xs: &Tensor) -> Tensor {
        xs.conv2d(&lowered(&self.weight).transpose(0, 1), None::<&Tensor>, 1, 0, 1, 1)
    }

    /// - xs: `[batch, in, height, width]`, result `[batch, out, height, width]`
    pub fn forward(&self, xs: &Tensor) -> Tensor {
        let bias = self.bias.as_ref().map(lowered);
        xs.conv2d(&lowered(&self.weight), bias, 1, self.padding, 1, 1)
    }
}
