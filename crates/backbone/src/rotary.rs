//! Rotary positions of image patches, as in DINOv3.

use std::f64::consts::TAU;

use tch::{Device, IndexOp, Kind, Tensor};
use torch_ext::Remembered;

use crate::image::Grid;

/// Turns queries and keys by the places of their patches. A patch's place is that of its centre in the image, from -1 to 1 along
/// each side, so that any grid can be encoded.
#[derive(Debug)]
pub(crate) struct Rotary {
    /// Base of the wavelengths.
    theta: f64,
    /// Width of a head, a multiple of 4.
    head_width: i64,
    /// Sines and cosines of the last grid.
    angles: Remembered<(Grid, Kind, Device)>,
}

impl Rotary {
    pub(crate) fn new(theta: f64, head_width: i64) -> Self {
        Self { theta, head_width, angles: Remembered::default() }
    }

    /// Cosines and sines, `[2, patches, head_width]`, computed in float32.
    pub(crate) fn angles(&self, grid: Grid, kind: Kind, device: Device) -> Tensor {
        self.angles.get((grid, kind, device), || {
            tch::no_grad(|| {
                let options = (Kind::Float, device);
                let centres = |n: i64| (Tensor::arange(n, options) + 0.5) / n as f64 * 2.0 - 1.0;
                let rows = centres(grid.rows).unsqueeze(1).expand([-1, grid.columns], false);
                let columns = centres(grid.columns).unsqueeze(0).expand([grid.rows, -1], false);
                let places = Tensor::stack(&[rows, columns], -1).reshape([-1, 2, 1]); // patches, axes, 1
                let quarter = self.head_width / 4;
                let exponents = Tensor::arange(quarter, options) / quarter as f64;
                let frequencies = (exponents * -self.theta.ln()).exp();
                let angles = (places * TAU * frequencies).flatten(1, 2).tile([2]);
                Tensor::stack(&[angles.cos(), angles.sin()], 0).to_kind(kind)
            })
        })
    }
}

/// Turns the patches' rows; those in front of them, class token and registers, stay.
///
/// - xs: `[n, heads, special + patches, head_width]`; angles: as [`Rotary::angles`] gives them
pub(crate) fn turn(xs: &Tensor, angles: &Tensor) -> Tensor {
    let n_special = xs.size()[2] - angles.size()[1];
    let patches = xs.i((.., .., n_special.., ..));
    let halves = patches.chunk(2, -1);
    let across = Tensor::cat(&[-&halves[1], halves[0].shallow_clone()], -1);
    let turned = patches * angles.get(0) + across * angles.get(1);
    Tensor::cat(&[xs.i((.., .., ..n_special, ..)), turned], 2)
}
