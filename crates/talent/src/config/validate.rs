//! Checks that a configuration's sizes fit together.

use adapters::{AdapterFusion, WordCrossAttention};
use backbone::SentenceAt;
use rca::{NECK_ATTENTION_HEADS, NeckFusion};

use super::{ConfigError, ModelConfig};
use crate::tuning::{LoraConfig, Tuning};

impl ModelConfig {
    /// Checks that the sizes fit together.
    ///
    /// # Errors
    /// When they do not; the error names the sizes.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.validate_sizes()?;
        self.validate_heads()?;
        self.validate_widths()?;
        for (name, variant, published) in [
            ("image", &self.image.variant, self.image.encoder.published()),
            ("text", &self.text.variant, self.text.encoder.published()),
        ] {
            variant.check(&published).map_err(|what| ConfigError(format!("{name}.{what}")))?;
        }
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
                // With 0 nothing would ever train.
                check(
                    alpha != 0.0 && alpha.abs() <= 1e6,
                    format!("lora.alpha must be -1e6 to 1e6 and not 0, not {alpha:e}"),
                )?;
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
                    let twice =
                        targets.iter().enumerate().find(|(place, role)| targets[..*place].contains(role));
                    let what = format!("{name} names `{}` twice", twice.map_or("", |(_, role)| role.name()));
                    check(twice.is_none(), what)?;
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

    /// Divisibility of the cross-modal units' widths by their heads; initial weights.
    fn validate_heads(&self) -> Result<(), ConfigError> {
        let (width, heads, std) = (self.image.fusion_width, self.image.cost_heads, self.image.fusion_std);
        check(
            heads >= 1 && width % heads == 0,
            format!("image.fusion_width ({width}) must be a multiple of image.cost_heads ({heads})"),
        )?;
        // From zero the product of cost and patches would never leave zero.
        check(std > 0.0 && std <= 10.0, format!("image.fusion_std ({std}) must be above 0 and at most 10"))?;
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
pub(super) const MAX_DEPTH: i64 = 1000;

fn check(ok: bool, what: String) -> Result<(), ConfigError> {
    if ok { Ok(()) } else { Err(ConfigError(what)) }
}
