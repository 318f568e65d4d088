use rca::ConvBlock;
use tch::Tensor;
use torch_ext::flops::{BOTH, Cost, conv, linear};
use torch_ext::layers::{Conv2d, ConvConfig, Linear, Mode};
use torch_ext::{Init, ParamPath};

/// Side of the dynamic kernel.
const KERNEL: i64 = 3;

/// Predicts a convolution kernel from each sample's sentence vector and applies it to that sample's upsampled features
/// (specification, section 7).
#[derive(Debug)]
pub struct Projector {
    first: ConvBlock,
    second: ConvBlock,
    last: Conv2d,
    txt: Linear,
}

impl Projector {
    /// Registers `vis.1, vis.3, vis.4, txt` for features of width C and sentence vectors of width `state_width`.
    pub fn new(path: &ParamPath, width: i64, state_width: i64) -> Self {
        let (vis, inner) = (path / "vis", width / 2);
        let init = Init::Uniform(1.0 / (inner as f64).sqrt());
        Self {
            first: ConvBlock::new(&(&vis / 1), width, width, 3),
            second: ConvBlock::new(&(&vis / 3), width, inner, 3),
            last: Conv2d::new(
                &(&vis / 4),
                ConvConfig { n_in: inner, n_out: inner, kernel: 1, weight: init, bias: Some(init) },
            ),
            txt: Linear::torch_default(&(path / "txt"), state_width, inner * KERNEL * KERNEL + 1),
        }
    }

    /// FLOPs over `n` pixels of width C.
    pub fn cost(width: i64, state_width: i64, n: i64) -> Cost {
        let (c, inner) = (width, width / 2);
        conv(4 * n, c, c, 9, BOTH)
            + conv(16 * n, c, inner, 9, BOTH)
            + conv(16 * n, inner, inner, 1, BOTH)
            + conv(16 * n, inner, 1, 9, BOTH)
            + linear(1, state_width, 9 * inner + 1, BOTH)
    }

    /// - features: `[batch, C, H, W]`; state: `[batch, T']`; result: logits `[batch, 1, 4H, 4W]`
    pub fn forward(&self, features: &Tensor, state: &Tensor, mode: Mode) -> Tensor {
        let twice =
            |xs: &Tensor| xs.upsample_bilinear2d([xs.size()[2] * 2, xs.size()[3] * 2], false, None, None);
        let xs = self.first.forward(&twice(features), mode);
        let xs = self.second.forward(&twice(&xs), mode);
        let (b, c, h, w) = (xs.size()[0], xs.size()[1], xs.size()[2], xs.size()[3]);
        let taps = KERNEL * KERNEL;
        let parts = self.txt.forward(state).split_with_sizes([c * taps, 1], 1);
        let bias = parts[1].view([b, 1, 1, 1]);
        // The convolution has one output channel per sample. One matrix product gives a response map for each of the nine
        // kernel taps; `col2im` then shifts the nine maps and adds them. It shifts in the opposite direction, hence the flip.
        let weights = parts[0].view([b, c, taps]).transpose(1, 2).flip([1]); // b 9 c
        // k^T (W x + b) = (k^T W) x + k^T b: the last 1x1 convolution is folded into the kernel. Taps outside of the map read
        // neither x nor b.
        let (matrix, offset) = self.last.matrix();
        let mut responses = weights.matmul(&matrix).bmm(&xs.flatten(2, 3)); // b 9 hw
        if let Some(offset) = offset {
            responses += weights.matmul(&offset).unsqueeze(-1);
        }
        let padding = KERNEL / 2;
        responses.col2im([h, w], [KERNEL, KERNEL], [1, 1], [padding, padding], [1, 1]) + bias
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, IndexOp, Kind};
    use torch_ext::Store;

    #[test]
    fn the_dynamic_kernel_is_a_convolution() {
        tch::manual_seed(3);
        let store = Store::new(Device::Cpu, Kind::Double);
        let projector = Projector::new(&store.root(), 8, 6);
        let place = (Kind::Double, Device::Cpu);
        let (features, state) = (Tensor::randn([2, 8, 3, 5], place), Tensor::randn([2, 6], place));
        let out = projector.forward(&features, &state, Mode::Eval);
        assert_eq!(out.size(), [2, 1, 12, 20]);

        let twice =
            |xs: &Tensor| xs.upsample_bilinear2d([xs.size()[2] * 2, xs.size()[3] * 2], false, None, None);
        let xs = projector.first.forward(&twice(&features), Mode::Eval);
        let xs = projector.last.forward(&projector.second.forward(&twice(&xs), Mode::Eval));
        let kernel = projector.txt.forward(&state);
        for sample in 0..2 {
            let weight = kernel.i((sample, ..4 * 9)).view([1, 4, 3, 3]);
            let expected = xs.i(sample).unsqueeze(0).conv2d(&weight, None::<&Tensor>, 1, 1, 1, 1)
                + kernel.i((sample, 4 * 9));
            let difference = (out.i(sample).unsqueeze(0) - expected).abs().max();
            assert!(f64::try_from(difference).unwrap() < 1e-12);
        }
    }
}
