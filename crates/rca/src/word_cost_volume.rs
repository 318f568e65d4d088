//! Word-level cost volume: compares the patches of a visual adapter with the words.

use tch::Tensor;
use torch_ext::flops::{BOTH, Cost, linear};
use torch_ext::layers::Linear;
use torch_ext::{Init, ParamPath};

/// Sizes of a cross-modal unit of patches and words.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WordUnitConfig {
    /// Width r of the adapter's bottleneck.
    pub bottleneck: i64,
    /// Width T of a word.
    pub text_width: i64,
    /// Common width e in which patches and words are compared.
    pub width: i64,
    /// Words K per sentence, padding included.
    pub word_len: i64,
    /// Number of cost volumes, each of an equal part of the common width; TALENT has one. More of them pass more than K values a
    /// patch.
    pub heads: i64,
    /// Standard deviation of the initial weights.
    pub init_std: f64,
}

impl WordUnitConfig {
    /// Initial standard deviation of every linear layer of a visual adapter (specification, quirk Q2).
    pub const INIT_STD: f64 = 0.02;

    /// A unit of these sizes, with one cost volume and published initial weights.
    pub const fn new(bottleneck: i64, text_width: i64, width: i64, word_len: i64) -> Self {
        Self { bottleneck, text_width, width, word_len, heads: 1, init_std: Self::INIT_STD }
    }
}

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
/// `W_c` maps the K costs of a patch, so K is part of the weights' shape. With `heads` = h, i and t are split into h parts, which are
/// compared part by part: cost is `[batch, N, h K]`.
///
/// ```
/// use rca::torch_ext::Store;
/// use rca::{WordCostVolume, WordUnitConfig};
/// use tch::{Device, Kind, Tensor};
///
/// let place = (Kind::Float, Device::Cpu);
/// let sizes = WordUnitConfig::new(16, 12, 8, 5);
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
    heads: i64,
}

impl WordCostVolume {
    /// Registers `image_proj, text_proj, cost_proj, back_proj`.
    pub fn new(path: &ParamPath, cfg: WordUnitConfig) -> Self {
        let linear = |name: &str, n_in: i64, n_out: i64| {
            Linear::new(&(path / name), n_in, n_out, Init::Normal(cfg.init_std), BIAS)
        };
        Self {
            image_proj: linear("image_proj", cfg.bottleneck, cfg.width),
            text_proj: linear("text_proj", cfg.text_width, cfg.width),
            cost_proj: linear("cost_proj", cfg.word_len * cfg.heads, cfg.width),
            back_proj: linear("back_proj", cfg.width, cfg.bottleneck),
            heads: cfg.heads,
        }
    }

    /// - patches: `[batch, N, r]`; words: `[batch, K, T]`; result `[batch, N, r]`
    pub fn forward(&self, patches: &Tensor, words: &Tensor) -> Tensor {
        let image = self.image_proj.forward(patches);
        let text = self.text_proj.forward(words);
        let cost = self.costs(&image, &text);
        self.back_proj.forward(&(self.cost_proj.forward(&cost) * image))
    }

    /// - image: `[batch, N, e]`; text: `[batch, K, e]`; result `[batch, N, heads * K]`
    fn costs(&self, image: &Tensor, text: &Tensor) -> Tensor {
        let parts = |xs: &Tensor| xs.chunk(self.heads, 2);
        let costs: Vec<Tensor> =
            parts(image).iter().zip(parts(text)).map(|(i, t)| i.bmm(&t.transpose(1, 2))).collect();
        if costs.len() == 1 { costs[0].shallow_clone() } else { Tensor::cat(&costs, 2) }
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
            + linear(n, k * cfg.heads, e, BOTH)
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
        let unit = WordCostVolume::new(&store.root(), WordUnitConfig::new(1, 1, 1, 2));
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

    #[test]
    fn two_cost_volumes_compare_the_parts_of_the_common_width() {
        let store = Store::new(Device::Cpu, Kind::Double);
        let sizes = WordUnitConfig { heads: 2, ..WordUnitConfig::new(1, 1, 2, 1) };
        let unit = WordCostVolume::new(&store.root(), sizes);
        let set = |name: &str, values: &[f64], shape: &[i64]| {
            store.assign(name, &Tensor::from_slice(values).view(shape)).unwrap();
        };
        set("image_proj.weight", &[2.0, 3.0], &[2, 1]);
        set("text_proj.weight", &[1.0, -1.0], &[2, 1]);
        set("cost_proj.weight", &[1.0, 0.0, 0.0, 1.0], &[2, 2]);
        set("back_proj.weight", &[1.0, 1.0], &[1, 2]);
        let one = |value: f64| Tensor::from_slice(&[value]).view([1, 1, 1]);
        // i = [2, 3]; t = [5, -5]; costs [10, -15]; times i: [20, -45]; back -25. One volume would give -5 for both.
        let out = unit.forward(&one(1.0), &one(5.0));
        assert_eq!(f64::try_from(out.view([])).unwrap(), -25.0);
    }
}
