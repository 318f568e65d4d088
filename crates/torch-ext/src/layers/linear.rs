use tch::Tensor;

use crate::init::Init;
use crate::low_rank::LowRank;
use crate::shim;
use crate::store::ParamPath;

/// `x W^T + b`. Large float32 products on the CPU use oneDNN, which uses the full vector width of every x86-64 processor. On Intel's with
/// AVX-512 they use MKL, libtorch's own choice, which is faster there and uses half of the width elsewhere. `TALENT_PRODUCTS=mkl` or
/// `onednn` in the environment decides otherwise.
///
/// - xs: `[..., in]`; weight: `[out, in]`; bias: `[out]`; result `[..., out]`
///
/// # Panics
/// Like tch's own operations: when the shapes do not fit together.
pub fn linear(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    shim::linear(xs, weight, bias).unwrap_or_else(|error| panic!("{error}"))
}

/// `y = x W^T + b`, `weight` `[out, in]`.
#[derive(Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    low_rank: LowRank,
}

impl Linear {
    /// Registers `weight` and `bias`.
    pub fn new(path: &ParamPath, n_in: i64, n_out: i64, weight: Init, bias: Init) -> Self {
        Self::with_optional_bias(path, n_in, n_out, weight, Some(bias))
    }

    /// Registers `weight`, and `bias` if it has an initialisation.
    pub fn with_optional_bias(
        path: &ParamPath,
        n_in: i64,
        n_out: i64,
        weight: Init,
        bias: Option<Init>,
    ) -> Self {
        let weight = path.parameter("weight", &[n_out, n_in], weight);
        let bias = bias.map(|init| path.parameter("bias", &[n_out], init));
        let low_rank = LowRank::register(path, &weight);
        Self { weight, bias, low_rank }
    }

    /// Registers `weight` only.
    pub fn without_bias(path: &ParamPath, n_in: i64, n_out: i64, weight: Init) -> Self {
        Self::with_optional_bias(path, n_in, n_out, weight, None)
    }

    /// PyTorch's default initialisation: weight and bias uniform within `1 / sqrt(n_in)`.
    pub fn torch_default(path: &ParamPath, n_in: i64, n_out: i64) -> Self {
        let init = Init::Uniform(1.0 / (n_in as f64).sqrt());
        Self::new(path, n_in, n_out, init, init)
    }

    /// - xs: `[..., in]`, result `[..., out]`
    pub fn forward(&self, xs: &Tensor) -> Tensor {
        self.low_rank.add_to(linear(xs, &self.weight, self.bias.as_ref()), xs)
    }
}
