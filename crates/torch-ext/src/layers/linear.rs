use tch::Tensor;

use crate::init::Init;
use crate::store::Path;

/// `y = x W^T + b`, `weight` `[out, in]`.
#[derive(Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// With bias.
    pub fn new(path: &Path, n_in: i64, n_out: i64, weight: Init, bias: Init) -> Self {
        Self {
            weight: path.parameter("weight", &[n_out, n_in], weight),
            bias: Some(path.parameter("bias", &[n_out], bias)),
        }
    }

    /// Without bias.
    pub fn without_bias(path: &Path, n_in: i64, n_out: i64, weight: Init) -> Self {
        Self { weight: path.parameter("weight", &[n_out, n_in], weight), bias: None }
    }

    /// PyTorch's default start: weight and bias uniform within `1 / sqrt(n_in)`.
    pub fn torch_default(path: &Path, n_in: i64, n_out: i64) -> Self {
        let init = Init::Uniform(1.0 / (n_in as f64).sqrt());
        Self::new(path, n_in, n_out, init, init)
    }

    /// - xs: `[..., in]`, result `[..., out]`
    pub fn forward(&self, xs: &Tensor) -> Tensor {
        xs.linear(&self.weight, self.bias.as_ref())
    }
}
