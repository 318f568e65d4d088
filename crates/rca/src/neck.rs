use tch::Tensor;
use torch_ext::flops::{BOTH, Cost, conv, linear};
use torch_ext::layers::{BatchNorm, Conv2d, ConvConfig, Linear, Mode};
use torch_ext::{Init, ParamPath};

use crate::conv_block::{ConvBlock, HEAD_NORM_EPS};
use crate::coord_conv::CoordConv;
use crate::sentence_unit::{NeckFusion, SentenceUnit};

/// Sizes of the neck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeckConfig {
    /// Width D of the image features.
    pub image_width: i64,
    /// Width T of a word.
    pub text_width: i64,
    /// Width T' of the sentence vector.
    pub state_width: i64,
    /// Width C of the neck.
    pub width: i64,
    /// Kind of cross-modal unit.
    pub fusion: NeckFusion,
}

/// Outputs of the neck. C is its width, (H, W) the patch grid.
#[derive(Debug)]
pub struct NeckOutput {
    /// Projected sentence t, `[batch, C]`.
    pub sentence: Tensor,
    /// Image features after their projection, three levels of `[batch, C, H, W]`, not negative.
    pub projected: [Tensor; 3],
    /// The three levels after the cross-modal unit, same shapes; input of the consistency loss.
    pub fused: [Tensor; 3],
    /// The aggregated levels, `[batch, C, H, W]`; input of the contrastive loss.
    pub aggregated: Tensor,
    /// The neck's final feature map, `[batch, C, H, W]`.
    pub features: Tensor,
}

/// Fuses three levels of image features with the sentence and aggregates them (specification, section 5).
#[derive(Debug)]
pub struct Neck {
    fusions: [SentenceUnit; 3],
    txt_proj: Linear,
    f3_proj: ConvBlock,
    f4_proj: ConvBlock,
    f5_proj: TransposedBlock,
    aggr: ConvBlock,
    coord: CoordConv,
    smooth: ConvBlock,
}

impl Neck {
    /// Registers the neck's parameters in the official order.
    pub fn new(path: &ParamPath, cfg: NeckConfig) -> Self {
        let (d, c) = (cfg.image_width, cfg.width);
        let unit =
            |level: i64| SentenceUnit::new(&(path / format!("fusion{level}")), cfg.fusion, c, cfg.text_width);
        Self {
            fusions: [unit(3), unit(4), unit(5)],
            txt_proj: Linear::torch_default(&(path / "txt_proj"), cfg.state_width, c),
            f3_proj: ConvBlock::new(&(path / "f3_proj"), d, c, 1),
            f4_proj: ConvBlock::new(&(path / "f4_proj"), d, c, 1),
            f5_proj: TransposedBlock::new(&(path / "f5_proj"), d, c),
            aggr: ConvBlock::new(&(path / "aggr"), 3 * c, c, 1),
            coord: CoordConv::new(&(path / "coordconv" / 0), c, c),
            smooth: ConvBlock::new(&(path / "coordconv" / 1), c, c, 3),
        }
    }

    /// FLOPs over an image of `n` patches and a sentence of `word_len` words.
    pub fn cost(cfg: NeckConfig, n: i64, word_len: i64) -> Cost {
        let (d, c) = (cfg.image_width, cfg.width);
        (conv(n, d, c, 1, BOTH) + SentenceUnit::cost(cfg.fusion, [c, cfg.text_width], n, word_len)) * 3
            + linear(1, cfg.state_width, c, BOTH)
            + conv(n, 3 * c, c, 1, BOTH)
            + conv(n, c + 2, c, 9, BOTH)
            + conv(n, c, c, 9, BOTH)
    }

    /// The cross-modal units of the three levels.
    pub fn units(&self) -> &[SentenceUnit; 3] {
        &self.fusions
    }

    /// The convolution with coordinate channels.
    pub fn coord_conv(&self) -> &CoordConv {
        &self.coord
    }

    /// - taps: three levels of `[batch, D, H, W]`; state: `[batch, T']`; words: `[batch, K, T]`
    pub fn forward(&self, taps: &[Tensor; 3], state: &Tensor, words: &Tensor, mode: Mode) -> NeckOutput {
        let projected = [
            self.f3_proj.forward(&taps[0], mode),
            self.f4_proj.forward(&taps[1], mode),
            self.f5_proj.forward(&taps[2], mode),
        ];
        let sentence = self.txt_proj.forward(state);
        let fuse = |level: usize| self.fusions[level].forward(&projected[level], &sentence, words, mode);
        let fused = [fuse(0), fuse(1), fuse(2)];
        let aggregated = self.aggr.forward(&Tensor::cat(&fused, 1), mode);
        let branch = self.smooth.forward(&self.coord.forward(&aggregated, mode), mode);
        NeckOutput { sentence, features: branch + &aggregated, projected, fused, aggregated }
    }
}

/// A 1x1 [`ConvBlock`] whose weight is stored as that of a transposed convolution, `[in, out, 1, 1]`. Initialisation therefore
/// uses the output width as the fan-in (specification, section 12.2).
#[derive(Debug)]
struct TransposedBlock {
    conv: Conv2d,
    norm: BatchNorm,
}

impl TransposedBlock {
    fn new(path: &ParamPath, n_in: i64, n_out: i64) -> Self {
        let weight = Init::Uniform(1.0 / (n_out as f64).sqrt());
        let stored = ConvConfig { n_in: n_out, n_out: n_in, kernel: 1, weight, bias: None };
        Self {
            conv: Conv2d::new(&(path / 0), stored),
            norm: BatchNorm::new(&(path / 1), n_out, HEAD_NORM_EPS),
        }
    }

    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        self.norm.forward_relu(&self.conv.forward_transposed(xs), mode)
    }
}
