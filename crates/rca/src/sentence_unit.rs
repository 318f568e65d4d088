//! Cross-modal units of the neck, which fuse image features with the sentence.

use serde::{Deserialize, Serialize};
use tch::Tensor;
use torch_ext::flops::{BOTH, Cost, cross_attention, linear};
use torch_ext::layers::{BatchNorm, Conv2d, ConvConfig, Linear, Mode, MultiheadAttention};
use torch_ext::{Init, ParamPath};

use crate::conv_block::HEAD_NORM_EPS;

/// Kind of cross-modal unit of the neck's levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NeckFusion {
    /// RCA: [`SentenceCostVolume`].
    CostVolume,
    /// Pixels attend to the words; the result multiplies the pixel features, then batch norm and ReLU.
    CrossAttention,
    /// Pixel features times the projected sentence, then batch norm and ReLU, as in earlier methods.
    Multiply,
}

/// The cross-modal unit of one neck level, selected by [`NeckFusion`] and registered below `fusion{3,4,5}`.
#[derive(Debug)]
pub enum SentenceUnit {
    /// RCA: sentence-level cost volume.
    CostVolume(SentenceCostVolume),
    /// Cross-attention from pixels to words.
    CrossAttention {
        /// Projection of the words to the neck's width.
        words: Linear,
        /// Cross-attention: the pixels are the queries, the words keys and values.
        attn: MultiheadAttention,
        /// Batch norm after the product with the pixel features.
        norm: BatchNorm,
    },
    /// Product of pixel features and projected sentence.
    Multiply {
        /// Projection of the sentence.
        txt_lin: Linear,
        /// Batch norm after the product.
        norm: BatchNorm,
    },
}

/// Attention heads of the `cross-attention` unit; the neck's width must be a multiple of this number.
pub const NECK_ATTENTION_HEADS: i64 = 8;

impl SentenceUnit {
    /// Builds the unit for features of width `width` and words of width `text_width`.
    pub fn new(path: &ParamPath, fusion: NeckFusion, width: i64, text_width: i64) -> Self {
        let norm = || BatchNorm::new(&(path / "norm"), width, HEAD_NORM_EPS);
        match fusion {
            NeckFusion::CostVolume => Self::CostVolume(SentenceCostVolume::new(path, width)),
            NeckFusion::CrossAttention => Self::CrossAttention {
                words: Linear::torch_default(&(path / "words"), text_width, width),
                attn: MultiheadAttention::new(&(path / "attn"), width, NECK_ATTENTION_HEADS, 0.1),
                norm: norm(),
            },
            NeckFusion::Multiply => {
                Self::Multiply { txt_lin: square(&(path / "txt_lin" / 0), width), norm: norm() }
            }
        }
    }

    /// FLOPs over `n` patches of width `width` and a sentence of `word_len` words of width `text_width`.
    pub fn cost(fusion: NeckFusion, [width, text_width]: [i64; 2], n: i64, word_len: i64) -> Cost {
        let c = width;
        match fusion {
            NeckFusion::CostVolume => linear(1, c, c, BOTH) + linear(n, c, 1, BOTH) + linear(n, 1, c, BOTH),
            NeckFusion::CrossAttention => {
                linear(word_len, text_width, c, BOTH) + cross_attention(n, word_len, c)
            }
            NeckFusion::Multiply => linear(1, c, c, BOTH),
        }
    }

    /// - pixels: `[batch, C, height, width]`; sentence: `[batch, C]`; words: `[batch, K, T]`
    /// - result: `[batch, C, height, width]`, not negative
    pub fn forward(&self, pixels: &Tensor, sentence: &Tensor, words: &Tensor, mode: Mode) -> Tensor {
        match self {
            Self::CostVolume(unit) => unit.forward(pixels, sentence, mode),
            Self::CrossAttention { words: projection, attn, norm } => {
                let (b, c, h, w) = pixels.size4().unwrap_or_else(|error| panic!("pixel features: {error}"));
                let tokens = pixels.flatten(2, 3).transpose(1, 2); // b hw c
                let text = projection.forward(words);
                let seen = attn.forward(&tokens, &text, &text, mode).transpose(1, 2).reshape([b, c, h, w]);
                norm.forward_relu(&(pixels * seen), mode)
            }
            Self::Multiply { txt_lin, norm } => {
                let text = txt_lin.forward(sentence).unsqueeze(-1).unsqueeze(-1);
                norm.forward_relu(&(pixels * text), mode)
            }
        }
    }
}

fn square(path: &ParamPath, width: i64) -> Linear {
    Linear::without_bias(path, width, width, Init::Uniform(1.0 / (width as f64).sqrt()))
}

/// Sentence-level cost volume (specification, section 5.3).
///
/// ```text
/// a = ReLU(M t)                    [batch, C]
/// s(y, x) = sum_c p[c, y, x] a[c]  one map
/// f = p * ReLU(BN(w * s))          w: 1 -> C channels, no bias
/// ```
#[derive(Debug)]
pub struct SentenceCostVolume {
    txt_lin: Linear,
    out_conv: Conv2d,
    norm: BatchNorm,
}

impl SentenceCostVolume {
    /// Registers `txt_lin.0, out_conv.0, out_conv.1`.
    pub fn new(path: &ParamPath, width: i64) -> Self {
        let cfg = ConvConfig { n_in: 1, n_out: width, kernel: 1, weight: Init::Uniform(1.0), bias: None };
        Self {
            txt_lin: square(&(path / "txt_lin" / 0), width),
            out_conv: Conv2d::new(&(path / "out_conv" / 0), cfg),
            norm: BatchNorm::new(&(path / "out_conv" / 1), width, HEAD_NORM_EPS),
        }
    }

    /// - pixels: `[batch, C, height, width]`; sentence: `[batch, C]`; result like pixels
    pub fn forward(&self, pixels: &Tensor, sentence: &Tensor, mode: Mode) -> Tensor {
        let (b, _, h, w) = pixels.size4().unwrap_or_else(|error| panic!("pixel features: {error}"));
        let text = self.txt_lin.forward(sentence).relu().unsqueeze(1); // b 1 c
        let cost = text.bmm(&pixels.flatten(2, 3)).view([b, 1, h, w]);
        pixels * self.norm.forward_relu(&self.out_conv.forward(&cost), mode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};
    use torch_ext::Store;

    #[test]
    fn the_cost_volume_by_hand() {
        let store = Store::new(Device::Cpu, Kind::Double);
        let unit = SentenceCostVolume::new(&store.root(), 2);
        let set = |name: &str, values: &[f64], shape: &[i64]| {
            store.assign(name, &Tensor::from_slice(values).view(shape)).unwrap();
        };
        set("txt_lin.0.weight", &[1.0, 0.0, 0.0, -1.0], &[2, 2]);
        set("out_conv.0.weight", &[1.0, -1.0], &[2, 1, 1, 1]);
        set("out_conv.1.running_var", &[1.0 - 1e-5, 1.0 - 1e-5], &[2]);
        // a = ReLU([2, -3]) = [2, 0]; s = 2 * p0 = 6; gates ReLU([6, -6]) = [6, 0].
        let pixels = Tensor::from_slice(&[3.0, 5.0]).view([1, 2, 1, 1]);
        let out = unit.forward(&pixels, &Tensor::from_slice(&[2.0, 3.0]).view([1, 2]), Mode::Eval);
        let out = Vec::<f64>::try_from(out.view([-1])).unwrap();
        assert!((out[0] - 18.0).abs() < 1e-9 && out[1] == 0.0, "{out:?}");
    }
}
