//! Floating-point operations of the network, counted from its sizes.
//!
//! Matrix products, convolutions and attention count, two operations for each multiplication and addition;
//! normalisations, activations and the like (well below one percent) do not. A backward pass costs as much again for each
//! operand that has a gradient, so work before the first trained part costs none. What an implementation recomputes, or
//! saves, is not in the count: it is the same for every implementation.

use rca::{AdapterFusion, NeckFusion};

use crate::config::ModelConfig;
use crate::model::TrainedParts;

/// Operations by stage, in the order of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flops {
    /// Text encoder with its adapters.
    pub text: u64,
    /// Image encoder without adapters.
    pub vision: u64,
    /// Visual adapters.
    pub adapters: u64,
    /// Neck.
    pub neck: u64,
    /// Decoder.
    pub decoder: u64,
    /// Projector.
    pub projector: u64,
}

impl Flops {
    /// The stages' names, as the network's tracing spans are called, with their operations.
    pub fn stages(&self) -> [(&'static str, u64); 6] {
        [
            ("text", self.text),
            ("vision blocks", self.vision),
            ("adapters", self.adapters),
            ("neck", self.neck),
            ("decoder", self.decoder),
            ("projector", self.projector),
        ]
    }

    /// All stages together.
    pub fn total(&self) -> u64 {
        self.stages().iter().map(|(_, flops)| flops).sum()
    }
}

/// Forward pass, and what the backward pass adds.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    forward: i64,
    backward: i64,
}

impl std::ops::Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { forward: self.forward + other.forward, backward: self.backward + other.backward }
    }
}

impl std::ops::Mul<i64> for Cost {
    type Output = Self;

    fn mul(self, times: i64) -> Self {
        Self { forward: self.forward * times, backward: self.backward * times }
    }
}

impl std::iter::Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(costs: I) -> Self {
        costs.fold(Self::default(), |sum, cost| sum + cost)
    }
}

/// What of an operation's operands has a gradient.
#[derive(Debug, Clone, Copy)]
struct Grad {
    input: bool,
    weight: bool,
}

const BOTH: Grad = Grad { input: true, weight: true };

/// A product of `[rows, from]` with a weight `[from, to]`.
fn linear(rows: i64, from: i64, to: i64, grad: Grad) -> Cost {
    let forward = 2 * rows * from * to;
    Cost { forward, backward: forward * (i64::from(grad.input) + i64::from(grad.weight)) }
}

/// Scores of n queries with m keys of a joint width, and the mix of m values; their gradients by all three if any.
fn attention(n: i64, m: i64, width: i64, differentiable: bool) -> Cost {
    let forward = 4 * n * m * width;
    Cost { forward, backward: if differentiable { 2 * forward } else { 0 } }
}

/// A same-size convolution over `places` positions whose kernel has `taps` entries.
fn conv(places: i64, from: i64, to: i64, taps: i64, grad: Grad) -> Cost {
    linear(places, from * taps, to, grad)
}

/// Operations of one inference: one image with one expression, every stage from the start.
pub fn forward_flops(cfg: &ModelConfig) -> Flops {
    stages(cfg, TrainedParts::AdaptersAndHead, 1, &|cost| cost.forward)
}

/// Operations of one training sample, forward and backward: an image with an expression, a positive and a negative.
pub fn train_flops(cfg: &ModelConfig, parts: TrainedParts) -> Flops {
    stages(cfg, parts, 3, &|cost| cost.forward + cost.backward)
}

fn stages(cfg: &ModelConfig, parts: TrainedParts, n_sentences: i64, count: &dyn Fn(Cost) -> i64) -> Flops {
    let [vision, adapters] = vision(cfg, parts);
    let count = |cost: Cost| count(cost).unsigned_abs();
    Flops {
        text: count(text(cfg, parts) * n_sentences),
        vision: count(vision),
        adapters: count(adapters),
        neck: count(neck(cfg)),
        decoder: count(decoder(cfg)),
        projector: count(projector(cfg)),
    }
}

/// What of a block's linear layers has a gradient.
///
/// - first: the first block with an adapter, whose output is the first to depend on something trained
fn block_grad(index: i64, first: Option<i64>, parts: TrainedParts) -> Grad {
    match parts {
        TrainedParts::All => BOTH,
        TrainedParts::AdaptersAndHead => {
            Grad { input: first.is_some_and(|first| index > first), weight: false }
        }
    }
}

fn text(cfg: &ModelConfig, parts: TrainedParts) -> Cost {
    let (k, t, r) = (cfg.word_len, cfg.text.width, cfg.text.adapter_width);
    let adapted: &[i64] = if cfg.text.adapters { &cfg.text.adapter_blocks } else { &[] };
    let first = adapted.iter().min().copied();
    let block = |index: i64| {
        let grad = block_grad(index, first, parts);
        let own = linear(k, t, 3 * t, grad)
            + attention(k, k, t, grad.input)
            + linear(k, t, t, grad)
            + linear(k, t, 4 * t, grad)
            + linear(k, 4 * t, t, grad);
        if adapted.contains(&index) { own + adapter_ends(k, t, r, grad) + dense(k - 1, r, 1) } else { own }
    };
    let trained =
        Grad { input: first.is_some() || parts == TrainedParts::All, weight: parts == TrainedParts::All };
    (0..cfg.text.depth).map(block).sum::<Cost>() + linear(1, t, cfg.text.state_width, trained)
}

/// Into an adapter's bottleneck and back. In the first adapter nothing before the bottleneck has a gradient.
fn adapter_ends(rows: i64, width: i64, r: i64, before: Grad) -> Cost {
    linear(rows, width, r, Grad { input: before.input, weight: true }) + linear(rows, r, width, BOTH)
}

/// - axes: 1 over a sentence, 2 over a grid
fn dense(places: i64, r: i64, axes: u32) -> Cost {
    let (half, quarter, narrow) = (r / 2, r / 4, r / 16);
    conv(places, r, half, 1, BOTH)
        + conv(places, r + half, narrow, 1, BOTH)
        + conv(places, narrow, quarter, 3_i64.pow(axes), BOTH)
        + conv(places, r + half + quarter, narrow, 1, BOTH)
        + conv(places, narrow, quarter, 5_i64.pow(axes), BOTH)
}

/// Blocks and adapters.
fn vision(cfg: &ModelConfig, parts: TrainedParts) -> [Cost; 2] {
    let image = &cfg.image;
    let (d, patches, p) = (image.width, cfg.grid() * cfg.grid(), image.patch_size);
    let n = patches + 1 + image.n_registers;
    let first = image.adapter_blocks.iter().min().copied();
    let embedding = linear(patches, 3 * p * p, d, Grad { input: false, weight: parts == TrainedParts::All });
    let block = |index: i64| {
        let grad = block_grad(index, first, parts);
        linear(n, d, 3 * d, grad)
            + attention(n, n, d, grad.input)
            + linear(n, d, d, grad)
            + linear(n, d, image.mlp_ratio * d, grad)
            + linear(n, image.mlp_ratio * d, d, grad)
    };
    let adapter = |&index: &i64| {
        let grad = block_grad(index, first, parts);
        adapter_ends(n, d, image.adapter_width, grad)
            + dense(patches, image.adapter_width, 2)
            + word_unit(cfg, patches)
    };
    let blocks = (0..image.depth).map(block).sum::<Cost>();
    [embedding + blocks, image.adapter_blocks.iter().map(adapter).sum()]
}

fn word_unit(cfg: &ModelConfig, patches: i64) -> Cost {
    let (r, e, k, t) = (cfg.image.adapter_width, cfg.image.fusion_width, cfg.word_len, cfg.text.width);
    let ends = linear(patches, r, e, BOTH) + linear(k, t, e, BOTH) + linear(patches, e, r, BOTH);
    match cfg.image.fusion {
        AdapterFusion::None => Cost::default(),
        AdapterFusion::CostVolume => ends + linear(patches, e, k, BOTH) + linear(patches, k, e, BOTH),
        AdapterFusion::CrossAttention => ends + cross_attention(patches, k, e),
    }
}

/// Attention of n queries to m keys with its four projections.
fn cross_attention(n: i64, m: i64, width: i64) -> Cost {
    linear(n, width, width, BOTH) * 2 + linear(m, width, width, BOTH) * 2 + attention(n, m, width, true)
}

fn neck(cfg: &ModelConfig) -> Cost {
    let (n, d, c) = (cfg.grid() * cfg.grid(), cfg.image.width, cfg.head.width);
    let unit = match cfg.head.fusion {
        NeckFusion::CostVolume => linear(1, c, c, BOTH) + linear(n, c, 1, BOTH) + linear(n, 1, c, BOTH),
        NeckFusion::CrossAttention => {
            linear(cfg.word_len, cfg.text.width, c, BOTH) + cross_attention(n, cfg.word_len, c)
        }
        NeckFusion::Multiply => linear(1, c, c, BOTH),
    };
    (conv(n, d, c, 1, BOTH) + unit) * 3
        + linear(1, cfg.text.state_width, c, BOTH)
        + conv(n, 3 * c, c, 1, BOTH)
        + conv(n, c + 2, c, 9, BOTH)
        + conv(n, c, c, 9, BOTH)
}

fn decoder(cfg: &ModelConfig) -> Cost {
    let (n, c, k, f) = (cfg.grid() * cfg.grid(), cfg.head.width, cfg.word_len, cfg.decoder.ffn_width);
    let layer = linear(n, c, c, BOTH) * 4
        + attention(n, n, c, true)
        + cross_attention(n, k, c)
        + linear(n, c, f, BOTH)
        + linear(n, f, c, BOTH);
    layer * cfg.decoder.depth
}

fn projector(cfg: &ModelConfig) -> Cost {
    let (n, c) = (cfg.grid() * cfg.grid(), cfg.head.width);
    let inner = c / 2;
    conv(4 * n, c, c, 9, BOTH)
        + conv(16 * n, c, inner, 9, BOTH)
        + conv(16 * n, inner, inner, 1, BOTH)
        + conv(16 * n, inner, 1, 9, BOTH)
        + linear(1, cfg.text.state_width, 9 * inner + 1, BOTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_model() {
        // By hand: a ViT-B block on 1029 tokens is 24 n d^2 + 4 n^2 d = 17.82 GFLOP; the two large convolutions of the
        // projector are 2 * 4096 * 512^2 * 9 = 19.33 and 2 * 16384 * 512 * 256 * 9 = 38.65.
        let flops = forward_flops(&ModelConfig::base());
        let giga = |flops: u64| flops as f64 / 1e9;
        assert!((giga(flops.vision) - (12.0 * 17.82 + 0.92)).abs() < 0.1, "{}", giga(flops.vision));
        assert!(
            (giga(flops.projector) - (19.33 + 38.65 + 2.15 + 0.08)).abs() < 0.1,
            "{}",
            giga(flops.projector)
        );
        assert!((giga(flops.total()) - 312.59).abs() < 0.05, "{}", giga(flops.total()));
    }

    #[test]
    fn frozen_work_before_the_first_adapter_has_no_backward_pass() {
        let cfg = ModelConfig::base();
        let forward = forward_flops(&cfg);
        let (pet, full) =
            (train_flops(&cfg, TrainedParts::AdaptersAndHead), train_flops(&cfg, TrainedParts::All));
        // Trained: the head costs three passes, the ten blocks behind the first adapter two, their attention three.
        assert_eq!(pet.projector, 3 * forward.projector);
        let attention = 4 * 1029 * 1029 * 768;
        let block = forward.vision - 2 * 1024 * 3 * 14 * 14 * 768;
        assert_eq!(pet.vision, forward.vision + block / 12 * 10 + attention * 10);
        // No pixel has a gradient.
        assert_eq!(full.vision, 3 * forward.vision - 2 * 1024 * 3 * 14 * 14 * 768);
        assert_eq!(full.text, 9 * forward.text);
    }
}
