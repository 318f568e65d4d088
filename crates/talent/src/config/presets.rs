//! The sizes of the official models, and of small ones.

use adapters::{AdapterFusion, Gate};
use backbone::{ImageDesign, PositionRule, TextDesign, Variant};
use rca::{NeckFusion, WordUnitConfig};

use super::{DecoderConfig, HeadConfig, ImageConfig, ModelConfig, TextConfig};
use crate::tuning::{LoraConfig, PromptConfig, Tuning};

impl ModelConfig {
    /// ViT-B/14 and CLIP ViT-B/16's text tower at 448 pixels: the official base model.
    pub fn base() -> Self {
        let every_other = vec![1, 3, 5, 7, 9, 11];
        Self {
            input_size: 448,
            word_len: 17,
            tuning: Tuning::Adapters,
            lora: LoraConfig::default(),
            prompt: PromptConfig::default(),
            image: ImageConfig {
                encoder: ImageDesign::PUBLISHED,
                width: 768,
                depth: 12,
                n_heads: 12,
                mlp_ratio: 4,
                patch_size: 14,
                n_registers: 4,
                position_grid: 37,
                position_rule: PositionRule::Talent,
                taps: [4, 8],
                adapter_blocks: every_other.clone(),
                adapter_width: 128,
                fusion_width: 128,
                cost_heads: 1,
                fusion_std: WordUnitConfig::INIT_STD,
                fusion: AdapterFusion::CostVolume,
                gate: Gate::Frozen,
                low_precision_tokens: false,
                variant: Variant::default(),
            },
            text: TextConfig {
                encoder: TextDesign::PUBLISHED,
                width: 512,
                depth: 12,
                n_heads: 8,
                vocabulary: 49408,
                context: 77,
                state_width: 512,
                adapters: true,
                adapter_blocks: every_other,
                adapter_width: 64,
                variant: Variant::default(),
            },
            head: HeadConfig { width: 512, fusion: NeckFusion::CostVolume },
            decoder: DecoderConfig {
                depth: 3,
                n_heads: 8,
                ffn_width: 512,
                dropout: 0.1,
                mask_padding: false,
            },
        }
    }

    /// ViT-L/14 in place of ViT-B/14: the official large model.
    pub fn large() -> Self {
        let mut config = Self::base();
        config.image.width = 1024;
        config.image.depth = 24;
        config.image.n_heads = 16;
        config.image.taps = [8, 16];
        config.image.adapter_blocks = vec![2, 6, 10, 14, 18, 22];
        config
    }

    /// A small network without pretrained weights that trains in minutes on two cores.
    pub fn tiny() -> Self {
        let mut config = Self::base();
        config.input_size = 96;
        config.image.width = 96;
        config.image.depth = 6;
        config.image.n_heads = 3;
        config.image.patch_size = 12;
        config.image.position_grid = 8;
        config.image.taps = [1, 3];
        config.image.adapter_blocks = vec![1, 3, 5];
        config.image.adapter_width = 32;
        config.image.fusion_width = 32;
        config.text.width = 96;
        config.text.state_width = 96;
        config.text.depth = 3;
        config.text.n_heads = 3;
        config.text.adapter_blocks = vec![1, 2];
        config.text.adapter_width = 32;
        config.head.width = 96;
        config.decoder =
            DecoderConfig { depth: 2, n_heads: 3, ffn_width: 192, dropout: 0.0, mask_padding: false };
        config
    }

    /// A network small enough for many runs on two cores, for use with frozen encoders of the same small size.
    pub fn testbed() -> Self {
        let mut config = Self::tiny();
        config.image.width = 64;
        config.image.depth = 4;
        config.image.n_heads = 4;
        config.image.taps = [1, 2];
        config.image.adapter_blocks = vec![1, 3];
        config.text.width = 64;
        config.text.state_width = 64;
        config.text.depth = 2;
        config.text.n_heads = 4;
        config.text.adapter_blocks = vec![1];
        config.head.width = 64;
        config.decoder.depth = 1;
        config.decoder.n_heads = 4;
        config.decoder.ffn_width = 128;
        config
    }
}
