//! Lower bounds of a network's memory, from its sizes alone. They serve to reject absurdly large configs before anything is
//! allocated, and are computed in 64-bit floating point because such sizes could overflow integers.

use adapters::{TextAdapters, VisualAdapters};

use crate::config::ModelConfig;

/// Lower bound of the number of parameters, by part.
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
    /// Parameters of all parts together.
    pub fn total(&self) -> f64 {
        self.image + self.text + self.rest
    }
}

/// Lower bound of the activation memory of a float32 forward pass, in bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LeastActivations {
    /// Bytes of the images, `[n, 3, input_size, input_size]`.
    pub images: f64,
    /// Bytes of the widest tensor of one image encoder block, and of the text encoder's causal mask.
    pub block: f64,
}

/// Lower bound of the number of parameters of a network.
pub fn least_parameters(cfg: &ModelConfig) -> LeastParameters {
    let size = |value: i64| value as f64;
    let (head, ffn) = (size(cfg.head.width), size(cfg.decoder.ffn_width));
    let image = cfg.image.encoder.least_values(&cfg.image.sizes());
    let text = cfg.text.encoder.least_values(&cfg.text.sizes());
    // Only the first projections of the neck are counted.
    let rest = 3.0 * head * head
        + size(cfg.decoder.depth) * (8.0 * head * head + 2.0 * head * ffn)
        + VisualAdapters::least_values(&cfg.visual_adapters())
        + TextAdapters::least_values(&cfg.text_adapters());
    LeastParameters { image, text, rest }
}

/// Bytes of the decoder's float32 queries, `[n, patches, C]`, for `n` sentences about one image.
pub fn least_decoder(cfg: &ModelConfig, n: usize) -> f64 {
    let tokens = (cfg.input_size as f64 / cfg.image.patch_size as f64).powi(2);
    4.0 * n as f64 * tokens * cfg.head.width as f64
}

/// Lower bound of the activation memory of `n` samples.
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
    use crate::{AdapterFusion, Talent};

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
