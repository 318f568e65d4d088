//! Floating-point operations of the network, counted from its sizes as [`torch_ext::flops`] counts them. Work before the first
//! trained part has no backward pass.

use adapters::{TextAdapters, VisualAdapters};
use rca::Neck;
use torch_ext::flops::{BOTH, Cost, Grad};

use crate::config::ModelConfig;
use crate::decoder::Decoder;
use crate::model::TrainedParts;
use crate::projector::Projector;

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

/// Operations of one inference: one image with one expression, every stage from the start.
pub fn forward_flops(cfg: &ModelConfig) -> Flops {
    stages(cfg, TrainedParts::AdaptersAndHead, 1, &|cost| cost.forward)
}

/// Operations of one training sample, forward and backward: an image with an expression, a positive and a negative.
pub fn train_flops(cfg: &ModelConfig, parts: TrainedParts) -> Flops {
    stages(cfg, parts, 3, &|cost| cost.forward + cost.backward)
}

fn stages(cfg: &ModelConfig, parts: TrainedParts, n_sentences: i64, count: &dyn Fn(Cost) -> i64) -> Flops {
    let (n, k) = (cfg.grid() * cfg.grid(), cfg.word_len);
    let (texts, visual) = (cfg.text.text_adapters(), cfg.visual_adapters());
    let all = parts == TrainedParts::All;
    // The first block with an adapter, whose output is the first to depend on something trained.
    let first = |blocks: &[i64]| blocks.iter().min().copied();
    let grad_behind = |first: Option<i64>| {
        move |block: i64| match parts {
            TrainedParts::All => BOTH,
            TrainedParts::AdaptersAndHead => {
                Grad { input: first.is_some_and(|first| block > first), weight: false }
            }
        }
    };
    let (first_text, first_visual) = (first(&texts.blocks), first(&visual.blocks));
    let (text_grad, image_grad) = (grad_behind(first_text), grad_behind(first_visual));
    let state = Grad { input: first_text.is_some() || all, weight: all };
    let text = cfg.text.encoder.cost(&cfg.text.sizes(), k, &text_grad, state)
        + TextAdapters::cost(&texts, k, &text_grad);
    let vision = cfg.image.encoder.cost(&cfg.image.sizes(), cfg.grid(), &image_grad, all);
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
