//! Patch embedding: the linear map of each patch's pixels.

use tch::{Device, Tensor};
use torch_ext::Autocast;
use torch_ext::layers::linear;

use crate::image::Grid;

/// The convolution of a vision transformer's patches, whose stride is its kernel's side. Pixels that do not fill a patch are left out.
///
/// In mixed precision on the CPU it is a matrix product over the patches: oneDNN's bfloat16 convolution of three channels by a kernel of
/// 14 x 14 takes longer than two transformer blocks.
///
/// - images: `[batch, 3, height, width]`; weight: `[width, 3, side, side]`; result `[batch, patches, width]`
pub(crate) fn embed_patches(images: &Tensor, weight: &Tensor, bias: &Tensor) -> (Tensor, Grid) {
    let side = weight.size()[3];
    let (b, channels) = (images.size()[0], images.size()[1]);
    let grid = Grid { rows: images.size()[2] / side, columns: images.size()[3] / side };
    if images.device() != Device::Cpu || Autocast::kind(Device::Cpu).is_none() {
        let patches = images.conv2d(weight, Some(bias), side, 0, 1, 1);
        return (patches.flatten(2, 3).transpose(1, 2), grid);
    }
    let pixels = images
        .narrow(2, 0, grid.rows * side)
        .narrow(3, 0, grid.columns * side)
        .view([b, channels, grid.rows, side, grid.columns, side])
        .permute([0, 2, 4, 1, 3, 5]) // b rows columns channels side side
        .reshape([b, grid.rows * grid.columns, channels * side * side]);
    (linear(&pixels, &weight.flatten(1, 3), Some(bias)), grid)
}
