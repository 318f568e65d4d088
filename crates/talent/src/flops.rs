//! Floating-point operations (FLOPs) of the network, computed from its sizes by the rules of [`torch_ext::flops`]. Layers
//! before the first trained parameter have no backward pass.

use adapters::{TextAdapters, VisualAdapters};
use backbone::{ImageEncoderConfig, ProjectionRole};
use rca::Neck;
use torch_ext::flops::{BOTH, Cost, Grad};

use crate::config::ModelConfig;
use crate::decoder::Decoder;
use crate::model::TrainedParts;
use crate::projector::Projector;
use crate::tuning::Tuning;

/// FLOPs by stage, in the order of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flops {
    /// FLOPs of the text encoder with its adapters.
    pub text: u64,
    /// FLOPs of the image encoder without adapters.
    pub vision: u64,
    /// FLOPs of the visual adapters.
    pub adapters: u64,
    /// FLOPs of the neck.
    pub neck: u64,
    /// FLOPs of the decoder.
    pub decoder: u64,
    /// FLOPs of the projector.
    pub projector: u64,
}

impl Flops {
    /// Name and FLOPs of each stage. The names are those of the network's tracing spans.
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

    /// FLOPs of all stages together.
    pub fn total(&self) -> u64 {
        self.stages().iter().map(|(_, flops)| flops).sum()
    }
}

/// FLOPs of inference on one image with one expression, with every stage computed from the start.
pub fn forward_flops(cfg: &ModelConfig) -> Flops {
    stages(cfg, TrainedParts::Tuned, 1, &|cost| cost.forward)
}

/// FLOPs of the forward and backward pass of one training sample: an image with an expression, a positive and a negative.
pub fn train_flops(cfg: &ModelConfig, parts: TrainedParts) -> Flops {
    stages(cfg, parts, 3, &|cost| cost.forward + cost.backward)
}

fn stages(cfg: &ModelConfig, parts: TrainedParts, n_sentences: i64, count: &dyn Fn(Cost) -> i64) -> Flops {
    let (n, k) = (cfg.grid() * cfg.grid(), cfg.word_len);
    let (texts, visual) = (cfg.text_adapters(), cfg.visual_adapters());
    let all = parts == TrainedParts::All;
    // The first block with an adapter. Its output is the first that depends on a trained parameter. The other methods train something
    // in or before the first block; what its first layers save is not deducted.
    let first =
        |blocks: &[i64], trains_all: bool| if trains_all { Some(-1) } else { blocks.iter().min().copied() };
    let grad_behind = |first: Option<i64>| {
        move |block: i64| match parts {
            TrainedParts::All => BOTH,
            TrainedParts::Tuned => Grad { input: first.is_some_and(|first| block > first), weight: false },
        }
    };
    let lora = |targets: &[ProjectionRole]| cfg.tuning == Tuning::Lora && !targets.is_empty();
    let norms = cfg.tuning == Tuning::Norms;
    let first_text = first(&texts.blocks, norms || lora(&cfg.lora.text_targets));
    let image_trains = norms || cfg.tuning == Tuning::Prompt || lora(&cfg.lora.image_targets);
    let first_visual = first(&visual.blocks, image_trains);
    let (text_grad, image_grad) = (grad_behind(first_text), grad_behind(first_visual));
    let state = Grad { input: first_text.is_some() || all, weight: all };
    let text = cfg.text.encoder.cost(&cfg.text.sizes(), k, &text_grad, state)
        + TextAdapters::cost(&texts, k, &text_grad)
        + text_lora(cfg);
    let vision = cfg.image.encoder.cost(&with_prompts(cfg), cfg.grid(), &image_grad, all) + image_lora(cfg);
    let adapters = VisualAdapters::cost(&visual, n, &image_grad);
    let count = |cost: Cost| count(cost).unsigned_abs();
    Flops {
        text: count(text * n_sentences),
        vision: count(vision),
        adapters: count(adapters),
        neck: count(Neck::cost(cfg.neck(), n, k)),
        decoder: count(Decoder::cost(&cfg.decoder, cfg.head.width, n, k)),
        projector: count(Projector::cost(cfg.head.width, cfg.text.state_width, n)),
    }
}

/// Sizes of the image encoder; prompts cost what registers cost.
fn with_prompts(cfg: &ModelConfig) -> ImageEncoderConfig {
    let sizes = cfg.image.sizes();
    match cfg.tuning {
        Tuning::Prompt => {
            ImageEncoderConfig { n_registers: sizes.n_registers + cfg.prompt.n_tokens, ..sizes }
        }
        _ => sizes,
    }
}

/// FLOPs of the text encoder's low-rank updates.
fn text_lora(cfg: &ModelConfig) -> Cost {
    if cfg.tuning != Tuning::Lora {
        return Cost::default();
    }
    let sizes = cfg.text.sizes();
    cfg.lora.cost(&cfg.lora.text_targets, sizes.depth, cfg.word_len, sizes.width, sizes.mlp_width())
}

/// FLOPs of the image encoder's low-rank updates.
fn image_lora(cfg: &ModelConfig) -> Cost {
    if cfg.tuning != Tuning::Lora {
        return Cost::default();
    }
    let sizes = cfg.image.sizes();
    let tokens = cfg.grid() * cfg.grid() + cfg.image.spec().input.n_special;
    let mlp_width = cfg.image.encoder.mlp_width(&sizes);
    cfg.lora.cost(&cfg.lora.image_targets, sizes.depth, tokens, sizes.width, mlp_width)
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
        let (pet, full) = (train_flops(&cfg, TrainedParts::Tuned), train_flops(&cfg, TrainedParts::All));
        // In units of the forward pass, the trained head costs 3, the ten frozen blocks after the first adapter 2, and their
        // attention 3.
        assert_eq!(pet.projector, 3 * forward.projector);
        let attention = 4 * 1029 * 1029 * 768;
        let block = forward.vision - 2 * 1024 * 3 * 14 * 14 * 768;
        assert_eq!(pet.vision, forward.vision + block / 12 * 10 + attention * 10);
        // The patch embedding computes no gradient of its input, the pixels.
        assert_eq!(full.vision, 3 * forward.vision - 2 * 1024 * 3 * 14 * 14 * 768);
        assert_eq!(full.text, 9 * forward.text);
    }
}
