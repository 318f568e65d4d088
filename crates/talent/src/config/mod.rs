//! All sizes and variants of the network.

mod derived;
mod presets;
mod validate;

use adapters::{AdapterFusion, Gate};
use backbone::{
    EncoderSpec, ImageDesign, ImageEncoderConfig, PixelInput, PositionRule, TextDesign, TextEncoderConfig,
    Variant, WordInput,
};
use rca::{NeckFusion, WordUnitConfig};
use serde::{Deserialize, Serialize};

use crate::tuning::{LoraConfig, PromptConfig, Tuning};

/// All sizes and variants of the network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Side of the square input in pixels; a multiple of the patch size.
    pub input_size: i64,
    /// Tokens K per expression, start and end token included. Part of the adapters' weights.
    pub word_len: i64,
    /// What trains inside the encoders.
    #[serde(default)]
    pub tuning: Tuning,
    /// Sizes of `tuning = "lora"`.
    #[serde(default)]
    pub lora: LoraConfig,
    /// Sizes of `tuning = "prompt"`.
    #[serde(default)]
    pub prompt: PromptConfig,
    /// Image encoder and its adapters.
    pub image: ImageConfig,
    /// Text encoder and its adapters.
    pub text: TextConfig,
    /// Neck and projector.
    pub head: HeadConfig,
    /// Decoder.
    pub decoder: DecoderConfig,
}

fn one_cost_volume() -> i64 {
    1
}

fn published_std() -> f64 {
    WordUnitConfig::INIT_STD
}

/// The image encoder, its adapters, and the block outputs that the neck reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageConfig {
    /// Design of the encoder, by name.
    #[serde(default = "published_image_encoder")]
    pub encoder: ImageDesign,
    /// Token width D.
    pub width: i64,
    /// Blocks.
    pub depth: i64,
    /// Attention heads.
    pub n_heads: i64,
    /// Hidden width of the MLPs in units of D.
    pub mlp_ratio: i64,
    /// Side of a patch in pixels.
    pub patch_size: i64,
    /// Register tokens between class token and patches.
    pub n_registers: i64,
    /// Side of the stored position grid (37 in the published weights); resampled if the input's grid differs.
    pub position_grid: i64,
    /// How the position grid is resampled.
    pub position_rule: PositionRule,
    /// The two blocks (from 0) whose outputs are tapped, besides the normalised final output.
    pub taps: [i64; 2],
    /// Blocks (from 0) with an adapter.
    pub adapter_blocks: Vec<i64>,
    /// Bottleneck width r of the adapters, a multiple of 16.
    pub adapter_width: i64,
    /// Common width e of patches and words in the adapters' cross-modal unit.
    pub fusion_width: i64,
    /// Number of cost volumes of `fusion = "cost-volume"`, each of an equal part of the common width; TALENT has one.
    #[serde(default = "one_cost_volume")]
    pub cost_heads: i64,
    /// Standard deviation of the initial weights of the adapters' cross-modal unit.
    #[serde(default = "published_std")]
    pub fusion_std: f64,
    /// Kind of cross-modal unit in the adapters.
    pub fusion: AdapterFusion,
    /// Whether the adapters' gates are frozen or learned.
    pub gate: Gate,
    /// Whether the tokens between the blocks (the residual stream) have autocast's dtype under mixed precision. Otherwise they
    /// are float32, as autocast leaves them. Halves the bytes moved between matrix products, but rounds each sum to 8 (bf16) or
    /// 11 bits (fp16).
    #[serde(default)]
    pub low_precision_tokens: bool,
    /// In what the blocks differ from the published ones.
    #[serde(default, skip_serializing_if = "Variant::is_published")]
    pub variant: Variant,
}

fn published_image_encoder() -> ImageDesign {
    ImageDesign::PUBLISHED
}

/// The text encoder and its adapters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextConfig {
    /// Design of the encoder, by name.
    #[serde(default = "published_text_encoder")]
    pub encoder: TextDesign,
    /// Word width T.
    pub width: i64,
    /// Blocks.
    pub depth: i64,
    /// Attention heads.
    pub n_heads: i64,
    /// Tokens in the vocabulary.
    pub vocabulary: i64,
    /// Rows of the position table; at least the words per sentence.
    pub context: i64,
    /// Width T' of the sentence vector.
    pub state_width: i64,
    /// Whether the text encoder has adapters.
    pub adapters: bool,
    /// Blocks (from 0) with an adapter.
    pub adapter_blocks: Vec<i64>,
    /// Bottleneck width r of the adapters, a multiple of 16.
    pub adapter_width: i64,
    /// In what the blocks differ from the published ones.
    #[serde(default, skip_serializing_if = "Variant::is_published")]
    pub variant: Variant,
}

fn published_text_encoder() -> TextDesign {
    TextDesign::PUBLISHED
}

impl ImageConfig {
    /// Sizes of the encoder itself, without adapters.
    pub fn sizes(&self) -> ImageEncoderConfig {
        ImageEncoderConfig {
            width: self.width,
            depth: self.depth,
            n_heads: self.n_heads,
            mlp_ratio: self.mlp_ratio,
            patch_size: self.patch_size,
            n_registers: self.n_registers,
            position_grid: self.position_grid,
            position_rule: self.position_rule,
            low_precision_tokens: self.low_precision_tokens,
            variant: self.variant,
        }
    }

    /// Specification of the encoder itself, without adapters.
    pub fn spec(&self) -> EncoderSpec<PixelInput> {
        self.encoder.spec(&self.sizes())
    }
}

impl TextConfig {
    /// Sizes of the encoder itself, without adapters.
    pub fn sizes(&self) -> TextEncoderConfig {
        TextEncoderConfig {
            width: self.width,
            depth: self.depth,
            n_heads: self.n_heads,
            vocabulary: self.vocabulary,
            context: self.context,
            state_width: self.state_width,
            variant: self.variant,
        }
    }

    /// Specification of the encoder itself, without adapters.
    pub fn spec(&self) -> EncoderSpec<WordInput> {
        self.encoder.spec(&self.sizes())
    }
}

/// Neck and projector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadConfig {
    /// Width C of neck and decoder. Must equal `text.width` and `text.state_width`, because words and sentence vectors are used
    /// together with the neck's features without a projection.
    pub width: i64,
    /// Kind of cross-modal unit in the neck.
    pub fusion: NeckFusion,
}

/// Decoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderConfig {
    /// Layers.
    pub depth: i64,
    /// Attention heads.
    pub n_heads: i64,
    /// Hidden width of the feed-forward networks.
    pub ffn_width: i64,
    /// Dropout probability.
    pub dropout: f64,
    /// Whether padding words are masked in the attention. The official code computes this mask and ignores it (quirk Q6).
    pub mask_padding: bool,
}

/// Sizes that do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("model config: {0}")]
pub struct ConfigError(pub String);
