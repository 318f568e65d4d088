//! Methods of parameter-efficient tuning: what trains inside the encoders. The head always trains.

use backbone::{EncoderSpec, Projection, ProjectionRole};
use serde::{Deserialize, Serialize};
use torch_ext::flops::{BOTH, Cost, linear};
use torch_ext::{Group, LowRankPart, LowRankRule, OptimizerGroup, Trains};
use weight_files::lora_scale;

/// What trains inside the encoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tuning {
    /// TALENT's adapters.
    #[default]
    Adapters,
    /// Low-rank updates of linear layers in both encoders (LoRA, Hu et al., 2022).
    Lora,
    /// Tokens beside the patches (visual prompt tuning, Jia et al., 2022).
    Prompt,
    /// The encoders' own normalisations and biases (BitFit, Ben Zaken et al., 2022, with the normalisations' weights).
    Norms,
    /// Nothing.
    HeadOnly,
}

/// Parameter group of LoRA's matrices.
pub const LORA: Group =
    Group { name: "lora", part_of: None, optimizer: OptimizerGroup::Encoders, trains: Trains::Always };

/// Sizes of [`Tuning::Lora`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank r of the updates.
    pub rank: i64,
    /// Alpha, which scales the updates.
    pub alpha: f64,
    /// Probability with which training zeroes an entry of a layer's input.
    pub dropout: f64,
    /// Whether the scale is `alpha / sqrt(r)` (rank-stabilised) in place of `alpha / r`.
    pub rslora: bool,
    /// Layers of each image block that have an update.
    pub image_targets: Vec<ProjectionRole>,
    /// Layers of each text block that have an update.
    pub text_targets: Vec<ProjectionRole>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        let targets = vec![ProjectionRole::Query, ProjectionRole::Value];
        Self {
            rank: 8,
            alpha: 16.0,
            dropout: 0.0,
            rslora: false,
            image_targets: targets.clone(),
            text_targets: targets,
        }
    }
}

/// Sizes of [`Tuning::Prompt`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PromptConfig {
    /// Tokens that stand beside the patches.
    pub n_tokens: i64,
    /// Whether every block has tokens of its own, which replace those of the block before (VPT-deep).
    pub deep: bool,
}

impl Default for PromptConfig {
    fn default() -> Self {
        Self { n_tokens: 16, deep: true }
    }
}

impl LoraConfig {
    /// Factor of the updates.
    pub fn scale(&self) -> f64 {
        lora_scale(self.rank, self.alpha, self.rslora)
    }

    /// The updates of an encoder's layers.
    pub(crate) fn rule(&self, spec: &EncoderSpec<()>, targets: &[ProjectionRole]) -> LowRankRule {
        let update = (self.rank, self.scale(), self.dropout);
        lora_rule(spec, update, |_, layer| targets.contains(&layer.role))
    }

    /// FLOPs of an encoder's updates. All need both gradients.
    ///
    /// - tokens: that pass through the blocks; width, mlp_width: of the blocks
    pub(crate) fn cost(
        &self,
        targets: &[ProjectionRole],
        depth: i64,
        tokens: i64,
        width: i64,
        mlp_width: i64,
    ) -> Cost {
        let update = |role: &ProjectionRole| {
            let (n_in, n_out) = match role {
                ProjectionRole::Query
                | ProjectionRole::Key
                | ProjectionRole::Value
                | ProjectionRole::Output => (width, width),
                ProjectionRole::Gate | ProjectionRole::Up => (width, mlp_width),
                ProjectionRole::Down => (mlp_width, width),
            };
            linear(tokens, n_in, self.rank, BOTH) + linear(tokens, self.rank, n_out, BOTH)
        };
        targets.iter().map(update).sum::<Cost>() * depth
    }
}

/// The updates of those layers of an encoder's blocks that are wanted.
///
/// - rank, scale, dropout: of each update; is_wanted: given a block and a layer of it
pub(crate) fn lora_rule(
    spec: &EncoderSpec<()>,
    (rank, scale, dropout): (i64, f64, f64),
    is_wanted: impl Fn(i64, &Projection) -> bool,
) -> LowRankRule {
    let layers =
        (0..spec.depth).flat_map(|block| spec.projections.layers.iter().map(move |layer| (block, layer)));
    let wanted = layers.filter(|(block, layer)| is_wanted(*block, layer));
    let updates = wanted.map(|(block, layer)| {
        let part = LowRankPart { name: part_name(layer), rows: layer.rows, rank, scale, dropout };
        (layer_name(spec, block, layer), part)
    });
    LowRankRule::new(LORA, updates)
}

/// Level of the matrices' names below a layer, for packed layers.
pub(crate) fn part_name(layer: &Projection) -> &'static str {
    if layer.rows.is_some() { layer.role.name() } else { "" }
}

/// Name of a block's linear layer in the store.
pub(crate) fn layer_name(spec: &EncoderSpec<()>, block: i64, layer: &Projection) -> String {
    format!("{}.{}.{block}.{}", spec.prefix, spec.projections.blocks, layer.layer)
}
