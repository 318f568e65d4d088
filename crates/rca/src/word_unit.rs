//! How a visual adapter lets its patches see the words.

use serde::{Deserialize, Serialize};
use tch::Tensor;
use torch_ext::layers::{Linear, Mode, MultiheadAttention};
use torch_ext::{Init, Path};

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

/// Sizes of a word unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WordUnitConfig {
    /// Width r of the adapter's bottleneck.
    pub bottleneck: i64,
    /// Width T of a word.
    pub text_width: i64,
    /// Common width e in which patches and words are compared.
    pub width: i64,
    /// Words K per sentence, padding included.
    pub word_len: i64,
}

/// Start of every linear layer of a visual adapter (specification, quirk Q2).
const WEIGHT: Init = Init::Normal(0.02);
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
    pub fn new(path: &Path, fusion: AdapterFusion, cfg: WordUnitConfig) -> Self {
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
}

impl WordUnit {
    /// How much each patch answers to one word: the product of both in the unit's common width. None for a unit that does
    /// not see the words.
    ///
    /// - patches: `[batch, patches, r]`; word: `[batch, T]`; result `[batch, patches]`
    pub fn compare(&self, patches: &Tensor, word: &Tensor) -> Option<Tensor> {
        let (image_proj, text_proj) = match self {
            Self::CostVolume(unit) => (&unit.image_proj, &unit.text_proj),
            Self::CrossAttention(unit) => (&unit.image_proj, &unit.text_proj),
            Self::None => return None,
        };
        let text = text_proj.forward(word).unsqueeze(-1);
        Some(image_proj.forward(patches).bmm(&text).squeeze_dim(-1))
    }
}

/// Word-level cost volume (specification, section 4, adapter step 5).
///
/// ```text
/// i = W_i y + b_i        [batch, N, e]
/// t = W_t words + b_t    [batch, K, e]
/// cost = i t^T           [batch, N, K]   raw dot products, padding words included
/// z = W_b ((W_c cost + b_c) * i) + b_b
/// ```
///
/// `W_c` maps the K costs of a patch, so K is part of the weights' shape.
#[derive(Debug)]
pub struct WordCostVolume {
    image_proj: Linear,
    text_proj: Linear,
    cost_proj: Linear,
    back_proj: Linear,
}

impl WordCostVolume {
    /// Registers `image_proj, text_proj, cost_proj, back_proj`.
    pub fn new(path: &Path, cfg: WordUnitConfig) -> Self {
        Self {
            image_proj: Linear::new(&(path / "image_proj"), cfg.bottleneck, cfg.width, WEIGHT, BIAS),
            text_proj: Linear::new(&(path / "text_proj"), cfg.text_width, cfg.width, WEIGHT, BIAS),
            cost_proj: Linear::new(&(path / "cost_proj"), cfg.word_len, cfg.width, WEIGHT, BIAS),
            back_proj: Linear::new(&(path / "back_proj"), cfg.width, cfg.bottleneck, WEIGHT, BIAS),
        }
    }

    /// - patches: `[batch, N, r]`; words: `[batch, K, T]`; result `[batch, N, r]`
    pub fn forward(&self, patches: &Tensor, words: &Tensor) -> Tensor {
        let image = self.image_proj.forward(patches);
        let text = self.text_proj.forward(words);
        let cost = image.bmm(&text.transpose(1, 2));
        self.back_proj.forward(&(self.cost_proj.forward(&cost) * image))
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
    pub fn new(path: &Path, cfg: WordUnitConfig) -> Self {
        Self {
            image_proj: Linear::new(&(path / "image_proj"), cfg.bottleneck, cfg.width, WEIGHT, BIAS),
            text_proj: Linear::new(&(path / "text_proj"), cfg.text_width, cfg.width, WEIGHT, BIAS),
            attn: MultiheadAttention::new(&(path / "attn"), cfg.width, Self::N_HEADS, Self::DROPOUT),
            back_proj: Linear::new(&(path / "back_proj"), cfg.width, cfg.bottleneck, WEIGHT, BIAS),
        }
    }

    /// - patches: `[batch, N, r]`; words: `[batch, K, T]`; result `[batch, N, r]`
    pub fn forward(&self, patches: &Tensor, words: &Tensor, mode: Mode) -> Tensor {
        let text = self.text_proj.forward(words);
        self.back_proj.forward(&self.attn.forward(&self.image_proj.forward(patches), &text, &text, mode))
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
        let unit = WordCostVolume::new(
            &store.root(),
            WordUnitConfig { bottleneck: 1, text_width: 1, width: 1, word_len: 2 },
        );
        let set = |name: &str, values: &[f64], shape: &[i64]| {
            store.assign(name, &Tensor::from_slice(values).view(shape)).unwrap();
        };
        set("image_proj.weight", &[2.0], &[1, 1]);
        set("text_proj.weight", &[1.0], &[1, 1]);
        set("cost_proj.weight", &[1.0, 10.0], &[1, 2]);
        set("back_proj.weight", &[0.5], &[1, 1]);
        set("back_proj.bias", &[1.0], &[1]);
        let one = |values: &[f64]| Tensor::from_slice(values).view([1, -1, 1]);
        // i = 6; costs 6 * [1, 2] = [6, 12]; mixed 6 + 120 = 126; times i = 756; back 378 + 1.
        let out = unit.forward(&one(&[3.0]), &one(&[1.0, 2.0]));
        assert_eq!(f64::try_from(out.view([])).unwrap(), 379.0);
    }
}
