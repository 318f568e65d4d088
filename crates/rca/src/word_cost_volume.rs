//! Word-level cost volume: compares the patches of a visual adapter with the words.

use tch::Tensor;
use torch_ext::flops::{BOTH, Cost, linear};
use torch_ext::layers::Linear;
use torch_ext::{Init, ParamPath};

/// Sizes of a cross-modal unit of patches and words.
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

/// Initialisation of every linear layer of a visual adapter (quirk Q2).
const WEIGHT: Init = Init::Normal(0.02);
const BIAS: Init = Init::Const(0.0);

/// Word-level cost volume (specification, section 4.7).
///
/// ```text
/// i = W_i y + b_i        [batch, N, e]
/// t = W_t words + b_t    [batch, K, e]
/// cost = i t^T           [batch, N, K]   raw dot products, padding words included
/// z = W_b ((W_c cost + b_c) * i) + b_b
/// ```
///
/// `W_c` maps the K costs of a patch, so K is part of the weights' shape.
///
/// ```
/// use rca::torch_ext::Store;
/// use rca::{WordCostVolume, WordUnitConfig};
/// use tch::{Device, Kind, Tensor};
///
/// let place = (Kind::Float, Device::Cpu);
/// let sizes = WordUnitConfig { bottleneck: 16, text_width: 12, width: 8, word_len: 5 };
/// let unit = WordCostVolume::new(&Store::new(Device::Cpu, Kind::Float).root(), sizes);
/// let seen = unit.forward(&Tensor::randn([2, 9, 16], place), &Tensor::randn([2, 5, 12], place));
/// assert_eq!(seen.size(), [2, 9, 16]);
/// ```
#[derive(Debug)]
pub struct WordCostVolume {
    image_proj: Linear,
    text_proj: Linear,
    cost_proj: Linear,
    back_proj: Linear,
}

impl WordCostVolume {
    /// Registers `image_proj, text_proj, cost_proj, back_proj`.
    pub fn new(path: &ParamPath, cfg: WordUnitConfig) -> Self {
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

    /// Similarity of each patch and one word: their dot product in the common width.
    ///
    /// - patches: `[batch, N, r]`; word: `[batch, T]`; result `[batch, N]`
    pub fn compare(&self, patches: &Tensor, word: &Tensor) -> Tensor {
        let text = self.text_proj.forward(word).unsqueeze(-1);
        self.image_proj.forward(patches).bmm(&text).squeeze_dim(-1)
    }

    /// FLOPs over `n` patches.
    pub fn cost(cfg: WordUnitConfig, n: i64) -> Cost {
        let (r, e, k, t) = (cfg.bottleneck, cfg.width, cfg.word_len, cfg.text_width);
        linear(n, r, e, BOTH)
            + linear(k, t, e, BOTH)
            + linear(n, e, r, BOTH)
            + linear(n, e, k, BOTH)
            + linear(n, k, e, BOTH)
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
