//! How a visual adapter lets its patches see the words.

use rca::{WordCostVolume, WordUnitConfig};
use serde::{Deserialize, Serialize};
use tch::Tensor;
use torch_ext::flops::{BOTH, Cost, cross_attention, linear};
use torch_ext::layers::{Linear, Mode, MultiheadAttention};
use torch_ext::{Init, ParamPath};

/// The cross-modal unit inside a visual adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdapterFusion {
    /// RCA: [`WordCostVolume`].
    CostVolume,
    /// [`WordCrossAttention`], the unit of earlier adapters.
    CrossAttention,
    /// The adapter does not see the words.
    None,
}

const BIAS: Init = Init::Const(0.0);

/// The unit a config asks for, registered below `cross`.
#[derive(Debug)]
pub enum WordUnit {
    /// RCA.
    CostVolume(WordCostVolume),
    /// Cross attention.
    CrossAttention(WordCrossAttention),
    /// Nothing: the patches pass unchanged.
    None,
}

impl WordUnit {
    /// Builds the unit.
    pub fn new(path: &ParamPath, fusion: AdapterFusion, cfg: WordUnitConfig) -> Self {
        match fusion {
            AdapterFusion::CostVolume => Self::CostVolume(WordCostVolume::new(path, cfg)),
            AdapterFusion::CrossAttention => Self::CrossAttention(WordCrossAttention::new(path, cfg)),
            AdapterFusion::None => Self::None,
        }
    }

    /// - patches: `[batch, patches, r]`; words: `[batch, K, T]`; result `[batch, patches, r]`
    pub fn forward(&self, patches: &Tensor, words: &Tensor, mode: Mode) -> Tensor {
        match self {
            Self::CostVolume(unit) => unit.forward(patches, words),
            Self::CrossAttention(unit) => unit.forward(patches, words, mode),
            Self::None => patches.shallow_clone(),
        }
    }

    /// Patch-word similarity: the dot product of each patch and one word in the unit's common width. `None` for a unit that does
    /// not see the words.
    ///
    /// - patches: `[batch, patches, r]`; word: `[batch, T]`; result `[batch, patches]`
    pub fn compare(&self, patches: &Tensor, word: &Tensor) -> Option<Tensor> {
        match self {
            Self::CostVolume(unit) => Some(unit.compare(patches, word)),
            Self::CrossAttention(unit) => Some(unit.compare(patches, word)),
            Self::None => None,
        }
    }

    /// Operations over `n` patches.
    pub fn cost(fusion: AdapterFusion, cfg: WordUnitConfig, n: i64) -> Cost {
        match fusion {
            AdapterFusion::CostVolume => WordCostVolume::cost(cfg, n),
            AdapterFusion::CrossAttention => WordCrossAttention::cost(cfg, n),
            AdapterFusion::None => Cost::default(),
        }
    }

    /// Values of the parameters, at least.
    pub fn least_values(fusion: AdapterFusion, cfg: WordUnitConfig) -> f64 {
        let width = cfg.width as f64;
        let projections = (cfg.bottleneck as f64 + cfg.text_width as f64) * width;
        match fusion {
            AdapterFusion::None => 0.0,
            AdapterFusion::CostVolume => projections,
            AdapterFusion::CrossAttention => projections + 4.0 * width * width,
        }
    }
}

/// Cross attention in place of the cost volume: both sides are projected to the common width, patches query the
/// words with 8 heads and dropout 0.1, and the result is projected back.
#[derive(Debug)]
pub struct WordCrossAttention {
    image_proj: Linear,
    text_proj: Linear,
    attn: MultiheadAttention,
    back_proj: Linear,
}

impl WordCrossAttention {
    /// Heads; the common width must be a multiple of it.
    pub const N_HEADS: i64 = 8;
    /// Dropout on the attention weights.
    pub const DROPOUT: f64 = 0.1;

    /// Registers `image_proj, text_proj, attn, back_proj`.
    pub fn new(path: &ParamPath, cfg: WordUnitConfig) -> Self {
        let linear = |name: &str, n_in: i64, n_out: i64| {
            Linear::new(&(path / name), n_in, n_out, Init::Normal(cfg.init_std), BIAS)
        };
        Self {
            image_proj: linear("image_proj", cfg.bottleneck, cfg.width),
            text_proj: linear("text_proj", cfg.text_width, cfg.width),
            attn: MultiheadAttention::new(&(path / "attn"), cfg.width, Self::N_HEADS, Self::DROPOUT),
            back_proj: linear("back_proj", cfg.width, cfg.bottleneck),
        }
    }

    /// - patches: `[batch, N, r]`; words: `[batch, K, T]`; result `[batch, N, r]`
    pub fn forward(&self, patches: &Tensor, words: &Tensor, mode: Mode) -> Tensor {
        let text = self.text_proj.forward(words);
        self.back_proj.forward(&self.attn.forward(&self.image_proj.forward(patches), &text, &text, mode))
    }

    /// As [`WordCostVolume::compare`].
    pub fn compare(&self, patches: &Tensor, word: &Tensor) -> Tensor {
        let text = self.text_proj.forward(word).unsqueeze(-1);
        self.image_proj.forward(patches).bmm(&text).squeeze_dim(-1)
    }

    /// Operations over `n` patches.
    pub fn cost(cfg: WordUnitConfig, n: i64) -> Cost {
        let (r, e, k, t) = (cfg.bottleneck, cfg.width, cfg.word_len, cfg.text_width);
        linear(n, r, e, BOTH) + linear(k, t, e, BOTH) + linear(n, e, r, BOTH) + cross_attention(n, k, e)
    }
}
