//! What follows from a configuration: the configurations of its parts, and settings that others decide.

use adapters::{AdapterFusion, TextAdaptersConfig, VisualAdaptersConfig};
use backbone::SentenceAt;
use rca::{NeckConfig, WordUnitConfig};

use super::ModelConfig;
use super::validate::MAX_DEPTH;
use crate::tuning::Tuning;

impl ModelConfig {
    /// Configuration of the image encoder's adapters.
    pub fn visual_adapters(&self) -> VisualAdaptersConfig {
        let image = &self.image;
        let unit = WordUnitConfig {
            bottleneck: image.adapter_width,
            text_width: self.text.width,
            width: image.fusion_width,
            word_len: self.word_len,
            heads: image.cost_heads,
            init_std: image.fusion_std,
        };
        VisualAdaptersConfig {
            blocks: if self.tuning == Tuning::Adapters { image.adapter_blocks.clone() } else { Vec::new() },
            image_width: image.width,
            n_special: image.spec().input.n_special,
            unit,
            fusion: image.fusion,
            gate: image.gate,
        }
    }

    /// Configuration of the text adapters; no blocks if there are none.
    pub fn text_adapters(&self) -> TextAdaptersConfig {
        let text = &self.text;
        let has_adapters = text.adapters && self.tuning == Tuning::Adapters;
        let blocks = if has_adapters { text.adapter_blocks.clone() } else { Vec::new() };
        TextAdaptersConfig { blocks, text_width: text.width, bottleneck: text.adapter_width }
    }

    /// Configuration of the neck.
    pub fn neck(&self) -> NeckConfig {
        NeckConfig {
            image_width: self.image.width,
            text_width: self.text.width,
            state_width: self.text.state_width,
            width: self.head.width,
            fusion: self.head.fusion,
        }
    }

    /// Whether the image encoder's adapters see the words.
    pub fn adapters_see_words(&self) -> bool {
        let adapters = self.visual_adapters();
        !adapters.blocks.is_empty() && adapters.fusion != AdapterFusion::None
    }

    /// This configuration with what its method of tuning does not use at its defaults: configurations that are equal then describe the
    /// same network.
    pub fn without_unused(&self) -> Self {
        let (mut used, published) = (self.clone(), Self::base());
        if self.tuning != Tuning::Adapters {
            let (image, other) = (&mut used.image, &published.image);
            image.adapter_blocks.clone_from(&other.adapter_blocks);
            (image.adapter_width, image.fusion_width) = (other.adapter_width, other.fusion_width);
            (image.cost_heads, image.fusion_std) = (other.cost_heads, other.fusion_std);
            (image.fusion, image.gate) = (other.fusion, other.gate);
            let (text, other) = (&mut used.text, &published.text);
            text.adapter_blocks.clone_from(&other.adapter_blocks);
            (text.adapter_width, text.adapters) = (other.adapter_width, other.adapters);
        }
        if self.tuning != Tuning::Lora {
            used.lora = published.lora;
        }
        if self.tuning != Tuning::Prompt {
            used.prompt = published.prompt;
        }
        used
    }

    /// Patches along a side of the input.
    pub fn grid(&self) -> i64 {
        self.input_size / self.image.patch_size
    }

    /// Sets what follows from other settings, unless it was chosen itself: taps and adapter blocks from a chosen depth, and the word
    /// length from a text encoder that takes sentences of its own length alone.
    ///
    /// - is_chosen: whether a key, such as `image.depth`, was chosen
    pub fn follow(&mut self, is_chosen: &dyn Fn(&str) -> bool) {
        if is_chosen("image.depth") {
            if !is_chosen("image.taps") {
                self.image.taps = default_taps(self.image.depth);
            }
            if !is_chosen("image.adapter_blocks") {
                self.image.adapter_blocks = default_adapter_blocks(self.image.depth);
            }
        }
        if is_chosen("text.depth") && !is_chosen("text.adapter_blocks") {
            self.text.adapter_blocks = default_adapter_blocks(self.text.depth);
        }
        if self.text.spec().input.sentence == SentenceAt::Last && !is_chosen("word_len") {
            self.word_len = self.text.context;
        }
    }
}

/// The blocks at a third and two thirds of the depth: 4 and 8 of 12, 8 and 16 of 24, as published.
fn default_taps(depth: i64) -> [i64; 2] {
    let depth = depth.clamp(0, MAX_DEPTH);
    let second = (2 * depth / 3).max(1);
    [(depth / 3).min(second - 1), second]
}

/// The middles of six equal parts of the depth: 1, 3, ... of 12, and 2, 6, ... of 24, as published.
fn default_adapter_blocks(depth: i64) -> Vec<i64> {
    let mut blocks: Vec<i64> = (0..6).map(|part| (2 * part + 1) * depth.clamp(0, MAX_DEPTH) / 12).collect();
    blocks.dedup();
    blocks
}
