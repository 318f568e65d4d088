use tch::Tensor;
use torch_ext::flops::{BOTH, Cost, conv};
use torch_ext::layers::{BatchNorm, Conv1d, Conv2d, ConvConfig, Mode};
use torch_ext::{Init, ParamPath};

use crate::ADAPTER_NORM_EPS;

/// Whether the branches run over a sentence or over a patch grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Domain {
    Sentence,
    Grid,
}

/// Three densely connected branches over a bottleneck of width r (specification, section 3.5 and section 4.6):
///
/// ```text
/// b1 = 1(r -> r/2)(x)
/// b2 = 3(r/16 -> r/4) 1(r + r/2 -> r/16) ([x, b1])
/// b3 = 5(r/16 -> r/4) 1(r + r/2 + r/4 -> r/16) ([x, b1, b2])
/// ```
///
/// where k(a -> b) is a convolution of kernel k with bias, batch norm (eps 1e-3) and ReLU. The result is
/// `[b1, b2, b3]`, again r channels.
#[derive(Debug)]
pub struct DenseBranches {
    branch1: Unit,
    branch2: [Unit; 2],
    branch3: [Unit; 2],
}

impl DenseBranches {
    pub(crate) fn new(path: &ParamPath, domain: Domain, r: i64) -> Self {
        let unit = |path: ParamPath, n_in: i64, n_out: i64, kernel: i64| {
            Unit::new(&path, domain, n_in, n_out, kernel)
        };
        let (half, quarter, narrow) = (r / 2, r / 4, r / 16);
        let (second, third) = (path / "dense_branch2", path / "dense_branch3");
        Self {
            branch1: unit(path / "dense_branch1", r, half, 1),
            branch2: [unit(&second / 0, r + half, narrow, 1), unit(&second / 1, narrow, quarter, 3)],
            branch3: [unit(&third / 0, r + half + quarter, narrow, 1), unit(&third / 1, narrow, quarter, 5)],
        }
    }

    /// - xs: `[batch, r, length]` or `[batch, r, height, width]`; result of the same shape
    pub fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        let run = |units: &[Unit; 2], xs: &Tensor| units[1].forward(&units[0].forward(xs, mode), mode);
        let b1 = self.branch1.forward(xs, mode);
        let b2 = run(&self.branch2, &Tensor::cat(&[xs, &b1], 1));
        let b3 = run(&self.branch3, &Tensor::cat(&[xs, &b1, &b2], 1));
        Tensor::cat(&[b1, b2, b3], 1)
    }

    /// FLOPs over `places` positions of a sentence (1 axis) or a grid (2 axes).
    pub(crate) fn cost(places: i64, r: i64, axes: u32) -> Cost {
        let (half, quarter, narrow) = (r / 2, r / 4, r / 16);
        conv(places, r, half, 1, BOTH)
            + conv(places, r + half, narrow, 1, BOTH)
            + conv(places, narrow, quarter, 3_i64.pow(axes), BOTH)
            + conv(places, r + half + quarter, narrow, 1, BOTH)
            + conv(places, narrow, quarter, 5_i64.pow(axes), BOTH)
    }
}

#[derive(Debug)]
enum Conv {
    Sentence(Conv1d),
    Grid(Conv2d),
}

/// Convolution with bias, batch norm, ReLU.
#[derive(Debug)]
struct Unit {
    conv: Conv,
    bn: BatchNorm,
}

impl Unit {
    fn new(path: &ParamPath, domain: Domain, n_in: i64, n_out: i64, kernel: i64) -> Self {
        let at = path / "conv";
        let conv = match domain {
            Domain::Sentence => {
                // Created in half precision by the official code (specification, section 12.2).
                let init = Init::UniformHalf(1.0 / ((n_in * kernel) as f64).sqrt());
                Conv::Sentence(Conv1d::new(
                    &at,
                    ConvConfig { n_in, n_out, kernel, weight: init, bias: Some(init) },
                ))
            }
            Domain::Grid => {
                let weight = Init::Normal((2.0 / (n_in * kernel * kernel) as f64).sqrt());
                let cfg = ConvConfig { n_in, n_out, kernel, weight, bias: Some(Init::Const(0.0)) };
                Conv::Grid(Conv2d::new(&at, cfg))
            }
        };
        Self { conv, bn: BatchNorm::new(&(path / "bn"), n_out, ADAPTER_NORM_EPS) }
    }

    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        let ys = match &self.conv {
            Conv::Sentence(conv) => conv.forward(xs),
            Conv::Grid(conv) => conv.forward(xs),
        };
        self.bn.forward_relu(&ys, mode)
    }
}
