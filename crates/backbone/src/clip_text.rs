//! CLIP's text encoder with TALENT's text adapters beside some of its MLPs (specification, section 3).

use serde::{Deserialize, Serialize};
use tch::Tensor;
use torch_ext::layers::{LayerNorm, Linear, Mode, MultiheadAttention};
use torch_ext::{Init, Path};

use crate::adapter::TextAdapter;
use crate::stage::Stage;

const NORM_EPS: f64 = 1e-5;
/// Weight of a text adapter's output: a literal constant of the official code (quirk Q3).
const GATE: f64 = 0.2;

/// Sizes of the text encoder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextEncoderConfig {
    /// Word width T.
    pub width: i64,
    /// Blocks.
    pub depth: i64,
    /// Attention heads.
    pub n_heads: i64,
    /// Tokens in the vocabulary.
    pub vocabulary: i64,
    /// Rows of the position table; at least the words per sentence.
    pub context: i64,
    /// Width T' of the sentence vector.
    pub state_width: i64,
    /// Whether there are text adapters at all.
    pub adapters: bool,
    /// Blocks (from 0) with an adapter.
    pub adapter_blocks: Vec<i64>,
    /// Bottleneck width r of the adapters, a multiple of 16.
    pub adapter_width: i64,
}

/// What the text encoder computes.
#[derive(Debug)]
pub struct TextOutput {
    /// Word features, `[batch, K, T]`, padding included.
    pub words: Tensor,
    /// Sentence vectors, `[batch, T']`.
    pub state: Tensor,
}

/// CLIP's text encoder with text adapters.
#[derive(Debug)]
pub struct TextEncoder {
    positional_embedding: Tensor,
    text_projection: Tensor,
    token_embedding: Tensor,
    blocks: Vec<TextBlock>,
    ln_final: LayerNorm,
}

impl TextEncoder {
    /// Registers everything below `txt_backbone` in the official order.
    pub fn new(path: &Path, cfg: &TextEncoderConfig) -> Self {
        let t = cfg.width;
        let positional_embedding =
            path.parameter("positional_embedding", &[cfg.context, t], Init::Normal(0.01));
        let text_projection =
            path.parameter("text_projection", &[t, cfg.state_width], Init::Normal(1.0 / (t as f64).sqrt()));
        // Part of the published files; CLIP's own loss uses it.
        let _ = path.parameter("logit_scale", &[], Init::Const((1.0_f64 / 0.07).ln()));
        let blocks = path / "transformer" / "resblocks";
        Self {
            positional_embedding,
            text_projection,
            blocks: (0..cfg.depth).map(|index| TextBlock::new(&(&blocks / index), cfg, index)).collect(),
            token_embedding: (path / "token_embedding").parameter(
                "weight",
                &[cfg.vocabulary, t],
                Init::Normal(0.02),
            ),
            ln_final: LayerNorm::new(&(path / "ln_final"), t, NORM_EPS),
        }
    }

    /// Encodes sentences. No position is masked beyond causality: padding is processed like words (quirk Q5).
    ///
    /// - ids: int64 `[batch, K]`; the end token has the largest id of a row
    pub fn forward(&self, ids: &Tensor, mode: Mode) -> TextOutput {
        self.forward_observed(ids, mode, &mut |_, _| {})
    }

    /// As [`TextEncoder::forward`]; `observe` sees what passes on the way.
    pub fn forward_observed(
        &self,
        ids: &Tensor,
        mode: Mode,
        observe: &mut dyn FnMut(Stage, &Tensor),
    ) -> TextOutput {
        let word_len = ids.size()[1];
        let positions = self.positional_embedding.narrow(0, 0, word_len);
        let mut xs = Tensor::embedding(&self.token_embedding, ids, -1, false, false) + positions;
        observe(Stage::Words, &xs);
        for (index, block) in self.blocks.iter().enumerate() {
            xs = block.forward(&xs, mode);
            observe(Stage::TextBlock(index), &xs);
        }
        let words = self.ln_final.forward(&xs);
        let end = ids.argmax(-1, true).unsqueeze(-1).expand([-1, 1, words.size()[2]], false); // b 1 t
        let state = words.gather(1, &end, false).squeeze_dim(1).matmul(&self.text_projection);
        TextOutput { words, state }
    }

    /// Its blocks, in order.
    pub fn blocks(&self) -> &[TextBlock] {
        &self.blocks
    }
}

/// One transformer block, with an adapter beside its MLP or without.
#[derive(Debug)]
pub struct TextBlock {
    attn: MultiheadAttention,
    ln_1: LayerNorm,
    c_fc: Linear,
    c_proj: Linear,
    ln_2: LayerNorm,
    adapter: Option<TextAdapter>,
}

impl TextBlock {
    fn new(path: &Path, cfg: &TextEncoderConfig, index: i64) -> Self {
        let t = cfg.width;
        let adapted = cfg.adapters && cfg.adapter_blocks.contains(&index);
        // CLIP's own start, which only matters where the encoder is trained from scratch.
        let linear = |path: Path, n_in: i64, n_out: i64, deviation: f64| {
            Linear::new(&path, n_in, n_out, Init::Normal(deviation), Init::Const(0.0))
        };
        let deep = (2.0 * cfg.depth as f64).powf(-0.5) * (t as f64).powf(-0.5);
        Self {
            attn: MultiheadAttention::new(&(path / "attn"), t, cfg.n_heads, 0.0),
            ln_1: LayerNorm::new(&(path / "ln_1"), t, NORM_EPS),
            c_fc: linear(path / "mlp" / "c_fc", t, 4 * t, (2.0 * t as f64).powf(-0.5)),
            c_proj: linear(path / "mlp" / "c_proj", 4 * t, t, deep),
            ln_2: LayerNorm::new(&(path / "ln_2"), t, NORM_EPS),
            adapter: adapted.then(|| TextAdapter::new(&(path / "adapter"), t, cfg.adapter_width)),
        }
    }

    /// Its adapter, if it has one.
    pub fn adapter(&self) -> Option<&TextAdapter> {
        self.adapter.as_ref()
    }

    /// - xs: `[batch, K, T]`, result alike
    pub fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        let xs = xs + self.attn.forward_self(&self.ln_1.forward(xs), mode, true);
        let hidden = self.c_fc.forward(&self.ln_2.forward(&xs));
        let quick_gelu = &hidden * (&hidden * 1.702).sigmoid();
        let ys = &xs + self.c_proj.forward(&quick_gelu);
        match &self.adapter {
            // The adapter sees the un-normalised residual stream.
            Some(adapter) => ys + adapter.forward(&xs, mode) * GATE,
            None => ys,
        }
    }
}
