use tch::{Device, Kind, Tensor};
use torch_ext::Path;
use torch_ext::layers::Mode;

use crate::conv_block::ConvBlock;

/// A 3x3 [`ConvBlock`] that also sees where it is: two channels are appended, first x, then y, each running from
/// -1 to 1 over the columns and rows (specification, section 5.5).
#[derive(Debug)]
pub struct CoordConv {
    conv1: ConvBlock,
}

impl CoordConv {
    /// Registers `conv1`.
    pub fn new(path: &Path, n_in: i64, n_out: i64) -> Self {
        Self { conv1: ConvBlock::new(&(path / "conv1"), n_in + 2, n_out, 3) }
    }

    /// - xs: `[batch, in, height, width]`, result `[batch, out, height, width]`
    pub fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        self.conv1.forward(&with_coordinates(xs), mode)
    }
}

fn with_coordinates(xs: &Tensor) -> Tensor {
    let (b, h, w) = (xs.size()[0], xs.size()[2], xs.size()[3]);
    let line = |n: i64, device: Device, kind: Kind| Tensor::linspace(-1.0, 1.0, n, (kind, device));
    let x = line(w, xs.device(), xs.kind()).view([1, 1, 1, w]).expand([b, 1, h, w], false);
    let y = line(h, xs.device(), xs.kind()).view([1, 1, h, 1]).expand([b, 1, h, w], false);
    Tensor::cat(&[xs.shallow_clone(), x, y], 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x_comes_before_y() {
        let map = with_coordinates(&Tensor::zeros([1, 1, 2, 3], (Kind::Float, Device::Cpu)));
        let values = Vec::<f32>::try_from(map.view([-1])).unwrap();
        assert_eq!(values[6..12], [-1.0, 0.0, 1.0, -1.0, 0.0, 1.0]);
        assert_eq!(values[12..], [-1.0, -1.0, -1.0, 1.0, 1.0, 1.0]);
    }
}
