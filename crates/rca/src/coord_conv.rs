use tch::{Device, Kind, Tensor};
use torch_ext::layers::Mode;
use torch_ext::{ParamPath, Remembered};

use crate::conv_block::ConvBlock;

/// A 3x3 [`ConvBlock`] with coordinate channels: x, then y, are appended to the input. They run from -1 to 1 over the columns
/// and the rows (specification, section 5.5).
#[derive(Debug)]
pub struct CoordConv {
    conv1: ConvBlock,
    coordinates: Remembered<([i64; 2], Kind, Device)>,
}

impl CoordConv {
    /// Registers `conv1`.
    pub fn new(path: &ParamPath, n_in: i64, n_out: i64) -> Self {
        Self {
            conv1: ConvBlock::new(&(path / "conv1"), n_in + 2, n_out, 3),
            coordinates: Remembered::default(),
        }
    }

    /// - xs: `[batch, in, height, width]`, result `[batch, out, height, width]`
    pub fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        let (b, h, w) = (xs.size()[0], xs.size()[2], xs.size()[3]);
        let place = (xs.kind(), xs.device());
        let codes = self.coordinates.get(([h, w], place.0, place.1), || coordinates([h, w], place));
        self.conv1.forward(&Tensor::cat(&[xs, &codes.expand([b, 2, h, w], false)], 1), mode)
    }
}

/// Coordinate channels: x, then y, `[1, 2, height, width]`.
fn coordinates([h, w]: [i64; 2], place: (Kind, Device)) -> Tensor {
    let x = Tensor::linspace(-1.0, 1.0, w, place).view([1, 1, 1, w]).expand([1, 1, h, w], false);
    let y = Tensor::linspace(-1.0, 1.0, h, place).view([1, 1, h, 1]).expand([1, 1, h, w], false);
    Tensor::cat(&[x, y], 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x_comes_before_y() {
        let map = coordinates([2, 3], (Kind::Float, Device::Cpu));
        let values = Vec::<f32>::try_from(map.view([-1])).unwrap();
        assert_eq!(values[..6], [-1.0, 0.0, 1.0, -1.0, 0.0, 1.0]);
        assert_eq!(values[6..], [-1.0, -1.0, -1.0, 1.0, 1.0, 1.0]);
    }
}
