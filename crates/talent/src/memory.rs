//! How much memory a network takes at least, from its sizes alone: to refuse sizes that cannot be meant before anything is
//! allocated. Lower bounds, in 64-bit floating point, since the sizes may be absurd.

use rca::AdapterFusion;

use crate::config::ModelConfig;

/// Values of the network's parameters that are certainly there, by part.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LeastParameters {
    /// Image encoder without adapters: patch embedding, positions, blocks.
    pub image: f64,
    /// Text encoder without adapters: tokens, positions, blocks.
    pub text: f64,
    /// Adapters, neck, decoder and projector.
    pub rest: f64,
}

impl LeastParameters {
    /// All parts together.
    pub fn total(&self) -> f64 {
        self.image + self.text + self.rest
    }
}

/// Bytes of a pass through the network in float32, at least.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LeastActivations {
    /// The images, `[n, 3, input_size, input_size]`.
    pub images: f64,
    /// The widest tensor of one block of the image encoder, and the text encoder's causal mask.
    pub block: f64,
}

/// Parameters of a network, at least.
pub fn least_parameters(cfg: &ModelConfig) -> LeastParameters {
    let size = |value: i64| value as f64;
    let (width, ratio, patch) =
        (size(cfg.image.width), size(cfg.image.mlp_ratio), size(cfg.image.patch_size));
    let block = |width: f64, ratio: f64| (4.0 + 2.0 * ratio) * width * width;
    let image = size(cfg.image.depth) * block(width, ratio)
        + 3.0 * patch * patch * width
        + (size(cfg.image.position_grid).powi(2) + size(cfg.image.n_registers)) * width;
    let text_width = size(cfg.text.width);
    let text = size(cfg.text.depth) * block(text_width, 4.0)
        + (size(cfg.text.vocabulary) + size(cfg.text.context)) * text_width;
    let (head, ffn) = (size(cfg.head.width), size(cfg.decoder.ffn_width));
    // What patches and words are compared in.
    let shared = size(cfg.image.fusion_width);
    let projections = (size(cfg.image.adapter_width) + text_width) * shared;
    let fusion = match cfg.image.fusion {
        AdapterFusion::None => 0.0,
        AdapterFusion::CostVolume => projections,
        AdapterFusion::CrossAttention => projections + 4.0 * shared * shared,
    };
    // The neck's first projections alone.
    let rest = 3.0 * head * head
        + size(cfg.decoder.depth) * (8.0 * head * head + 2.0 * head * ffn)
        + cfg.image.adapter_blocks.len() as f64 * (2.0 * width * size(cfg.image.adapter_width) + fusion)
        + cfg.text.adapter_blocks.len() as f64 * 2.0 * text_width * size(cfg.text.adapter_width);
    LeastParameters { image, text, rest }
}

/// Bytes of the decoder's queries, a value a patch, for `n` sentences about one image.
pub fn least_decoder(cfg: &ModelConfig, n: usize) -> f64 {
    let tokens = (cfg.input_size as f64 / cfg.image.patch_size as f64).powi(2);
    4.0 * n as f64 * tokens * cfg.head.width as f64
}

/// What `n` samples take on their way through a network, at least.
pub fn least_activations(cfg: &ModelConfig, n: usize) -> LeastActivations {
    let (side, n) = (cfg.input_size as f64, n as f64);
    let tokens = (side / cfg.image.patch_size as f64).powi(2);
    let hidden = tokens * cfg.image.width as f64 * (1.0 + cfg.image.mlp_ratio as f64);
    let mask = (cfg.text.context as f64).powi(2);
    LeastActivations { images: 4.0 * n * 3.0 * side * side, block: 4.0 * (n * hidden + mask) }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::Talent;

    #[test]
    fn the_bound_is_below_and_near_what_there_is() {
        let mut cases = vec![ModelConfig::tiny(), ModelConfig::testbed()];
        for fusion in [AdapterFusion::None, AdapterFusion::CrossAttention, AdapterFusion::CostVolume] {
            let mut wide = ModelConfig::testbed();
            (wide.image.fusion, wide.image.fusion_width) = (fusion, 4096);
            cases.push(wide);
        }
        for cfg in cases {
            let model = Talent::new(&cfg, Device::Cpu, Kind::Float).unwrap();
            let found: usize = model.store().entries().iter().map(|(_, entry)| entry.tensor.numel()).sum();
            let least = least_parameters(&cfg).total();
            assert!(least <= found as f64 && least >= 0.5 * found as f64, "{least} of {found}");
        }
    }
}
