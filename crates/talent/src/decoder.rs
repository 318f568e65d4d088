use tch::{Device, Kind, Tensor};
use torch_ext::flops::{BOTH, Cost, attention, cross_attention, linear};
use torch_ext::layers::{
    LayerNorm, Linear, Mode, MultiheadAttention, dropout, grid_positions, sequence_positions,
};
use torch_ext::{ParamPath, Remembered};

use crate::config::DecoderConfig;

const NORM_EPS: f64 = 1e-5;

/// Vision-language decoder: pixels attend to each other and to the words (specification, section 6).
///
/// Padding words are attended to, as in the official code (quirk Q6), unless a mask is given.
#[derive(Debug)]
pub struct Decoder {
    layers: Vec<DecoderLayer>,
    norm: LayerNorm,
    pixel_positions: Remembered<([i64; 3], Kind, Device)>,
    word_positions: Remembered<([i64; 2], Kind, Device)>,
}

impl Decoder {
    /// Registers `layers.*` and `norm`.
    pub fn new(path: &ParamPath, width: i64, cfg: &DecoderConfig) -> Self {
        let layers = path / "layers";
        Self {
            layers: (0..cfg.depth).map(|index| DecoderLayer::new(&(&layers / index), width, cfg)).collect(),
            norm: LayerNorm::new(&(path / "norm"), width, NORM_EPS),
            pixel_positions: Remembered::default(),
            word_positions: Remembered::default(),
        }
    }

    /// FLOPs over `n` pixels and `word_len` words of width C.
    pub fn cost(cfg: &DecoderConfig, width: i64, n: i64, word_len: i64) -> Cost {
        let (c, f) = (width, cfg.ffn_width);
        let layer = linear(n, c, c, BOTH) * 4
            + attention(n, n, c, true)
            + cross_attention(n, word_len, c)
            + linear(n, c, f, BOTH)
            + linear(n, f, c, BOTH);
        layer * cfg.depth
    }

    /// The decoder's layers, in order.
    pub fn layers(&self) -> &[DecoderLayer] {
        &self.layers
    }

    /// - features: `[batch, C, H, W]`; words: `[batch, K, C]`; result `[batch, C, H, W]`
    /// - visible: attention mask, bool `[batch, K]`, true for words that may be attended to; without it, all may
    pub fn forward(&self, features: &Tensor, words: &Tensor, visible: Option<&Tensor>, mode: Mode) -> Tensor {
        let (c, h, w) = (features.size()[1], features.size()[2], features.size()[3]);
        let place = (features.kind(), features.device());
        let n_words = words.size()[1];
        let pixel_positions =
            self.pixel_positions.get(([c, h, w], place.0, place.1), || grid_positions(c, h, w, place));
        let word_positions = self
            .word_positions
            .get(([c, n_words], place.0, place.1), || sequence_positions(c, n_words, place));
        let mut xs = features.flatten(2, 3).transpose(1, 2); // b hw c
        for layer in &self.layers {
            xs = layer.forward(&xs, words, [&pixel_positions, &word_positions], visible, mode);
        }
        self.norm.forward(&xs).transpose(1, 2).reshape([-1, c, h, w])
    }
}

/// One decoder layer: pre-norm, with an additional layer norm on each attention's output.
#[derive(Debug)]
pub struct DecoderLayer {
    self_attn_norm: LayerNorm,
    cross_attn_norm: LayerNorm,
    self_attn: MultiheadAttention,
    multihead_attn: MultiheadAttention,
    ffn_in: Linear,
    ffn_norm: LayerNorm,
    ffn_out: Linear,
    norm1: LayerNorm,
    norm2: LayerNorm,
    norm3: LayerNorm,
    dropout: f64,
}

impl DecoderLayer {
    fn new(path: &ParamPath, width: i64, cfg: &DecoderConfig) -> Self {
        let norm = |name: &str, width: i64| LayerNorm::new(&(path / name), width, NORM_EPS);
        let attention = |name: &str| MultiheadAttention::new(&(path / name), width, cfg.n_heads, cfg.dropout);
        let ffn = path / "ffn";
        Self {
            self_attn_norm: norm("self_attn_norm", width),
            cross_attn_norm: norm("cross_attn_norm", width),
            self_attn: attention("self_attn"),
            multihead_attn: attention("multihead_attn"),
            ffn_in: Linear::torch_default(&(&ffn / 0), width, cfg.ffn_width),
            ffn_norm: LayerNorm::new(&(&ffn / 3), cfg.ffn_width, NORM_EPS),
            ffn_out: Linear::torch_default(&(&ffn / 4), cfg.ffn_width, width),
            norm1: norm("norm1", width),
            norm2: norm("norm2", width),
            norm3: norm("norm3", width),
            dropout: cfg.dropout,
        }
    }

    /// - xs: pixels `[batch, HW, C]`; words: `[batch, K, C]`
    /// - positions: positional embeddings of pixels and words, `[1, HW, C]` and `[1, K, C]`
    /// - visible: attention mask, bool `[batch, K]`, true for words that may be attended to; without it, all may
    pub fn forward(
        &self,
        xs: &Tensor,
        words: &Tensor,
        [pixel_positions, word_positions]: [&Tensor; 2],
        visible: Option<&Tensor>,
        mode: Mode,
    ) -> Tensor {
        let drop = |xs: Tensor| dropout(&xs, self.dropout, mode);

        let normed = self.norm1.forward(xs);
        let placed = &normed + pixel_positions;
        let seen = self.self_attn.forward(&placed, &placed, &normed, mode);
        let xs = xs + drop(self.self_attn_norm.forward(&seen));

        let queries = self.norm2.forward(&xs) + pixel_positions;
        let keys = words + word_positions;
        let read = self.multihead_attn.forward_masked(&queries, &keys, words, visible, mode);
        let xs = xs + drop(self.cross_attn_norm.forward(&read));

        let hidden = drop(self.ffn_in.forward(&self.norm3.forward(&xs)).relu());
        let update = self.ffn_out.forward(&self.ffn_norm.forward(&hidden));
        xs + drop(update)
    }
}
