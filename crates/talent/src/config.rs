use adapters::{AdapterFusion, Gate, TextAdaptersConfig, VisualAdaptersConfig, WordCrossAttention};
use backbone::{
    EncoderSpec, ImageDesign, ImageEncoderConfig, PixelInput, PositionRule, SentenceAt, TextDesign,
    TextEncoderConfig, Variant, WordInput,
};
use rca::{NECK_ATTENTION_HEADS, NeckConfig, NeckFusion, WordUnitConfig};
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

    /// Configuration of the image encoder's adapters.
    pub fn visual_adapters(&self) -> VisualAdaptersConfig {
        let image = &self.image;
        let unit = WordUnitConfig {
            bottleneck: image.adapter_width,
            text_width: self.text.width,
            width: image.fusion_width,
            word_len: self.word_len,
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

    /// Checks that the sizes fit together.
    ///
    /// # Errors
    /// When they do not; the error names the sizes.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.validate_sizes()?;
        self.validate_heads()?;
        self.validate_widths()?;
        self.image.encoder.check(&self.image.sizes()).map_err(ConfigError)?;
        self.validate_blocks()?;
        self.validate_tuning()
    }

    /// Sizes that must be positive, and sizes that must be multiples of others.
    fn validate_sizes(&self) -> Result<(), ConfigError> {
        let positive = [
            ("input_size", self.input_size),
            ("image.width", self.image.width),
            ("image.depth", self.image.depth),
            ("image.n_heads", self.image.n_heads),
            ("image.mlp_ratio", self.image.mlp_ratio),
            ("image.patch_size", self.image.patch_size),
            ("image.position_grid", self.image.position_grid),
            ("image.fusion_width", self.image.fusion_width),
            ("text.width", self.text.width),
            ("text.depth", self.text.depth),
            ("text.n_heads", self.text.n_heads),
            ("text.vocabulary", self.text.vocabulary),
            ("head.width", self.head.width),
            ("decoder.n_heads", self.decoder.n_heads),
            ("decoder.ffn_width", self.decoder.ffn_width),
        ];
        for (name, value) in positive {
            check(value > 0, format!("{name} must be positive, not {value}"))?;
        }
        check(self.image.n_registers >= 0, "image.n_registers must not be negative".into())?;
        check(self.decoder.depth >= 0, "decoder.depth must not be negative".into())?;
        let limits = [
            ("image.depth", self.image.depth, MAX_DEPTH),
            ("text.depth", self.text.depth, MAX_DEPTH),
            ("decoder.depth", self.decoder.depth, MAX_DEPTH),
            ("image.mlp_ratio", self.image.mlp_ratio, 100),
            ("image.n_registers", self.image.n_registers, 10_000),
            ("image.width", self.image.width, 100_000),
            ("image.adapter_width", self.image.adapter_width, 100_000),
            ("text.adapter_width", self.text.adapter_width, 100_000),
            ("image.fusion_width", self.image.fusion_width, 100_000),
            ("decoder.ffn_width", self.decoder.ffn_width, 1_000_000),
            ("head.width", self.head.width, 100_000),
            ("text.context", self.text.context, 10_000),
        ];
        for (name, value, most) in limits {
            check(value <= most, format!("{name} must be at most {most}, not {value}"))?;
        }
        let (size, patch) = (self.input_size, self.image.patch_size);
        let below = size / patch * patch;
        check(
            size % patch == 0,
            format!(
                "input_size ({size}) must be a multiple of image.patch_size ({patch}): the nearest are {}{}",
                if below > 0 { format!("{below} and ") } else { String::new() },
                below.saturating_add(patch)
            ),
        )?;
        let multiples = [
            ("image.width", self.image.width, "image.n_heads", self.image.n_heads),
            ("text.width", self.text.width, "text.n_heads", self.text.n_heads),
            ("head.width", self.head.width, "decoder.n_heads", self.decoder.n_heads),
            ("head.width", self.head.width, "4 (two-dimensional position codes)", 4),
            ("image.width", self.image.width, "4 (two-dimensional position codes)", 4),
            ("image.adapter_width", self.image.adapter_width, "16", 16),
            ("text.adapter_width", self.text.adapter_width, "16", 16),
        ];
        for (name, value, unit_name, unit) in multiples {
            let what = format!("{name} ({value}) must be a positive multiple of {unit_name} ({unit})");
            check(value > 0 && value % unit == 0, what)?;
        }
        Ok(())
    }

    /// Sizes of the tuning method, and that it changes layers that exist.
    fn validate_tuning(&self) -> Result<(), ConfigError> {
        match self.tuning {
            Tuning::Lora => {
                let LoraConfig { rank, alpha, dropout, .. } = self.lora;
                check((1..=100_000).contains(&rank), format!("lora.rank must be 1 to 100000, not {rank}"))?;
                check(alpha.is_finite(), format!("lora.alpha must be a finite number, not {alpha}"))?;
                check(
                    (0.0..1.0).contains(&dropout),
                    format!("lora.dropout ({dropout}) must be at least 0 and below 1"),
                )?;
                let (image, text) = (self.image.spec().without_input(), self.text.spec().without_input());
                let both = [
                    ("lora.image_targets", image, &self.lora.image_targets),
                    ("lora.text_targets", text, &self.lora.text_targets),
                ];
                for (name, spec, targets) in both {
                    let layers = spec.projections.layers;
                    let unknown = targets.iter().find(|role| layers.iter().all(|layer| layer.role != **role));
                    let what = unknown.map_or_else(String::new, |role| {
                        format!("{name} names `{}`, which the blocks of `{}` lack", role.name(), spec.name)
                    });
                    check(unknown.is_none(), what)?;
                }
                let n_targets = self.lora.image_targets.len() + self.lora.text_targets.len();
                check(n_targets > 0, "lora.image_targets and lora.text_targets are both empty".into())
            }
            Tuning::Prompt => {
                let n = self.prompt.n_tokens;
                check((1..=10_000).contains(&n), format!("prompt.n_tokens must be 1 to 10000, not {n}"))
            }
            Tuning::Adapters | Tuning::Norms | Tuning::HeadOnly => Ok(()),
        }
    }

    /// Divisibility of the cross-modal units' widths by their attention heads.
    fn validate_heads(&self) -> Result<(), ConfigError> {
        if self.image.fusion == AdapterFusion::CrossAttention {
            let (width, heads) = (self.image.fusion_width, WordCrossAttention::N_HEADS);
            check(
                width % heads == 0,
                format!(
                    "image.fusion_width ({width}) must be a multiple of the {heads} heads of image.fusion=cross-attention"
                ),
            )?;
        }
        if self.head.fusion == NeckFusion::CrossAttention {
            let (width, heads) = (self.head.width, NECK_ATTENTION_HEADS);
            check(
                width % heads == 0,
                format!(
                    "head.width ({width}) must be a multiple of the {heads} heads of head.fusion=cross-attention"
                ),
            )?;
        }
        Ok(())
    }

    /// Equal widths of text encoder and head; ranges of `word_len` and dropout.
    fn validate_widths(&self) -> Result<(), ConfigError> {
        let (text, state, head) = (self.text.width, self.text.state_width, self.head.width);
        check(
            text == head && state == head,
            format!("text.width ({text}), text.state_width ({state}) and head.width ({head}) must be equal"),
        )?;
        check(
            self.word_len >= 3 && self.word_len <= self.text.context,
            format!("word_len ({}) must be 3 to text.context ({})", self.word_len, self.text.context),
        )?;
        let spec = self.text.spec();
        check(
            spec.input.sentence != SentenceAt::Last || self.word_len == self.text.context,
            format!(
                "word_len ({}) must be text.context ({}): `{}` reads its sentence vector at the last position of its own length",
                self.word_len, self.text.context, spec.name
            ),
        )?;
        check(
            (0.0..1.0).contains(&self.decoder.dropout),
            format!("decoder.dropout ({}) must be at least 0 and below 1", self.decoder.dropout),
        )
    }

    /// Block indices of taps and adapters.
    fn validate_blocks(&self) -> Result<(), ConfigError> {
        let [first, second] = self.image.taps;
        check(
            0 <= first && first < second && second < self.image.depth,
            format!("image.taps ({first}, {second}) must be two increasing block numbers below image.depth"),
        )?;
        let blocks = |name: &str, blocks: &[i64], depth: i64| {
            let stray = blocks.iter().find(|&&block| block < 0 || block >= depth);
            let what = format!("{name} names block {}, but there are {depth}", stray.unwrap_or(&0));
            check(stray.is_none(), what)?;
            let twice = blocks.iter().enumerate().find(|(place, block)| blocks[..*place].contains(block));
            let what = format!("{name} names block {} twice", twice.map_or(0, |(_, &block)| block));
            check(twice.is_none(), what)
        };
        blocks("image.adapter_blocks", &self.image.adapter_blocks, self.image.depth)?;
        blocks("text.adapter_blocks", &self.text.adapter_blocks, self.text.depth)
    }
}

/// Far beyond any published network; a typing error otherwise takes minutes until memory runs out.
const MAX_DEPTH: i64 = 1000;

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

fn check(ok: bool, what: String) -> Result<(), ConfigError> {
    if ok { Ok(()) } else { Err(ConfigError(what)) }
}
