//! In what an encoder's blocks may differ from those of the design as published.

use serde::{Deserialize, Serialize};
use tch::Tensor;
use weight_files::Settings;

/// Variants of a transformer's blocks. What is `None` is as in the published models of the design.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Variant {
    /// Epsilon of the layer normalisations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub norm_eps: Option<f64>,
    /// Whether the query projections have a bias.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query_bias: Option<bool>,
    /// Whether the key projections have a bias.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_bias: Option<bool>,
    /// Whether the value projections have a bias.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_bias: Option<bool>,
    /// Whether the attention's output projections have a bias.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_bias: Option<bool>,
    /// Whether the MLPs have biases.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mlp_bias: Option<bool>,
    /// Hidden width of the MLPs; by default `mlp_ratio` times the token width.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mlp_width: Option<i64>,
    /// Whether the MLPs are gated (GLU): `down(act(gate(x)) * up(x))`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gated_mlp: Option<bool>,
    /// Activation of the MLPs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activation: Option<Activation>,
    /// Base of the rotary positions' wavelengths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope_theta: Option<f64>,
}

impl Variant {
    /// This variant, with another's values where this one has none.
    pub fn or(self, other: Self) -> Self {
        Self {
            norm_eps: self.norm_eps.or(other.norm_eps),
            query_bias: self.query_bias.or(other.query_bias),
            key_bias: self.key_bias.or(other.key_bias),
            value_bias: self.value_bias.or(other.value_bias),
            output_bias: self.output_bias.or(other.output_bias),
            mlp_bias: self.mlp_bias.or(other.mlp_bias),
            mlp_width: self.mlp_width.or(other.mlp_width),
            gated_mlp: self.gated_mlp.or(other.gated_mlp),
            activation: self.activation.or(other.activation),
            rope_theta: self.rope_theta.or(other.rope_theta),
        }
    }

    /// Whether everything is as published.
    pub fn is_published(&self) -> bool {
        *self == Self::default()
    }
}

impl Variant {
    /// Checks that a variant sets only what a design has, in its range.
    ///
    /// - published: of the design, which has a value for each of its settings
    ///
    /// # Errors
    /// Names the setting.
    pub fn check(&self, published: &Self) -> Result<(), String> {
        let settings = [
            ("norm_eps", self.norm_eps.is_some(), published.norm_eps.is_some()),
            ("query_bias", self.query_bias.is_some(), published.query_bias.is_some()),
            ("key_bias", self.key_bias.is_some(), published.key_bias.is_some()),
            ("value_bias", self.value_bias.is_some(), published.value_bias.is_some()),
            ("output_bias", self.output_bias.is_some(), published.output_bias.is_some()),
            ("mlp_bias", self.mlp_bias.is_some(), published.mlp_bias.is_some()),
            ("gated_mlp", self.gated_mlp.is_some(), published.gated_mlp.is_some()),
            ("activation", self.activation.is_some(), published.activation.is_some()),
            ("rope_theta", self.rope_theta.is_some(), published.rope_theta.is_some()),
        ];
        if let Some((name, ..)) = settings.iter().find(|(_, is_set, is_known)| *is_set && !is_known) {
            return Err(format!("variant.{name} is set, but this encoder has no such setting"));
        }
        for (name, value) in [("norm_eps", self.norm_eps), ("rope_theta", self.rope_theta)] {
            if let Some(value) = value.filter(|value| !(value.is_finite() && *value > 0.0)) {
                return Err(format!("variant.{name} must be a positive number, not {value}"));
            }
        }
        match self.mlp_width {
            Some(width) if !(1..=1_000_000).contains(&width) => {
                Err(format!("variant.mlp_width must be 1 to 1000000, not {width}"))
            }
            _ => Ok(()),
        }
    }

    /// Settings in which two variants differ, with the values of both.
    pub(crate) fn differences(&self, other: &Self) -> Vec<String> {
        let shown = |variant: &Self| {
            [
                ("norm_eps", variant.norm_eps.map(|value| value.to_string())),
                ("query_bias", variant.query_bias.map(|value| value.to_string())),
                ("key_bias", variant.key_bias.map(|value| value.to_string())),
                ("value_bias", variant.value_bias.map(|value| value.to_string())),
                ("output_bias", variant.output_bias.map(|value| value.to_string())),
                ("mlp_bias", variant.mlp_bias.map(|value| value.to_string())),
                ("gated_mlp", variant.gated_mlp.map(|value| value.to_string())),
                ("activation", variant.activation.map(|value| value.name().to_owned())),
                ("rope_theta", variant.rope_theta.map(|value| value.to_string())),
            ]
        };
        let both = shown(self).into_iter().zip(shown(other));
        let differ = both.filter(|((_, ours), (_, theirs))| ours != theirs);
        differ
            .map(|((name, ours), (_, theirs))| {
                let text = |value: Option<String>| value.unwrap_or_else(|| "unset".to_owned());
                format!("variant.{name} {} (here {})", text(theirs), text(ours))
            })
            .collect()
    }
}

/// Names of sizes in which two encoders differ, with the values of both.
///
/// - sizes: name, our value, the other's value
pub(crate) fn sizes_that_differ(sizes: &[(&str, i64, i64)]) -> Vec<String> {
    let differ = sizes.iter().filter(|(_, ours, theirs)| ours != theirs);
    differ.map(|(name, ours, theirs)| format!("{name} {theirs} (here {ours})")).collect()
}

/// Activation of an MLP, by the names of the `transformers` library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x * Phi(x)`, Phi the distribution function of the standard normal distribution.
    Gelu,
    /// GELU with `0.5 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))` in place of Phi.
    GeluPytorchTanh,
    /// `x * sigmoid(1.702 x)`.
    QuickGelu,
    /// `x * sigmoid(x)`, also called swish.
    Silu,
    /// `max(x, 0)`.
    Relu,
}

impl Activation {
    /// Reads an activation from a configuration of the `transformers` library.
    ///
    /// # Errors
    /// When it is none of these; the message names it.
    pub fn of(settings: &Settings<'_>, key: &str, published: Self) -> Result<Self, String> {
        let Some(name) = settings.text(key)? else { return Ok(published) };
        Ok(match name {
            "gelu" | "gelu_python" => Self::Gelu,
            "gelu_pytorch_tanh" | "gelu_new" => Self::GeluPytorchTanh,
            "quick_gelu" => Self::QuickGelu,
            "silu" | "swish" => Self::Silu,
            "relu" => Self::Relu,
            other => return Err(format!("config.json: {key} is `{other}`, which is not known here")),
        })
    }

    /// Its name in configs and in the `transformers` library.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gelu => "gelu",
            Self::GeluPytorchTanh => "gelu_pytorch_tanh",
            Self::QuickGelu => "quick_gelu",
            Self::Silu => "silu",
            Self::Relu => "relu",
        }
    }

    /// Applies it, element by element.
    pub fn forward(self, xs: &Tensor) -> Tensor {
        match self {
            Self::Gelu => xs.gelu("none"),
            Self::GeluPytorchTanh => xs.gelu("tanh"),
            Self::QuickGelu => xs * (xs * 1.702).sigmoid(),
            Self::Silu => xs.silu(),
            Self::Relu => xs.relu(),
        }
    }
}
