//! The text towers of SigLIP (Zhai et al., 2023, arXiv 2303.15343) and SigLIP 2 (Tschannen et al., 2025, arXiv 2502.14786).

use tch::{Kind, Tensor};
use torch_ext::layers::{LayerNorm, Linear, attention};
use torch_ext::{Init, ParamPath};
use weight_files::{Layout, Settings, as_named, nothing_beside};

use crate::guest::{AtMlp, Guest, Register};
use crate::projection::{Projection, ProjectionRole, Projections};
use crate::residual::with_addition;
use crate::spec::{EncoderSpec, SentenceAt, Tokenizer, WordInput};
use crate::text::{TextEncoder, TextEncoderConfig, TextFamily, TextOutput};
use crate::variant::{Activation, Variant};

/// A generation of SigLIP's text encoders. They differ in their tokenizer alone.
///
/// Attention is not causal, and padding is attended to like words. The sentence vector is read at the last position, so that a
/// sentence is always padded to [`TextEncoderConfig::context`] tokens.
#[derive(Debug)]
pub struct SiglipText {
    name: &'static str,
    /// Names in `config.json`. Most models of the second generation are published under the name of the first.
    models: &'static [&'static str],
    tokenizer: Tokenizer,
    padding: i64,
}

/// SigLIP's text encoders, `siglip` in configs.
pub static SIGLIP: SiglipText = SiglipText {
    name: "siglip",
    models: &["siglip", "siglip_text_model"],
    tokenizer: Tokenizer::Siglip,
    padding: 1,
};

/// SigLIP 2's text encoders, `siglip2` in configs.
pub static SIGLIP2: SiglipText = SiglipText {
    name: "siglip2",
    models: &["siglip2", "siglip2_text_model", "siglip", "siglip_text_model"],
    tokenizer: Tokenizer::Siglip2,
    padding: 0,
};

/// The names of the published files are the names here, below `text_model.` in a model of both towers.
static LAYOUTS: &[Layout] = &[Layout {
    name: "Hugging Face names",
    prefixes: &["text_model.", ""],
    mark: "head.weight",
    target: as_named,
    beside: nothing_beside,
    elsewhere: |name| {
        name.starts_with("vision_model.")
            || name.ends_with("embeddings.position_ids")
            || ["logit_scale", "logit_bias"].contains(&name)
    },
    needs: None,
}];

const PROJECTIONS: Projections = Projections {
    blocks: "encoder.layers",
    published_blocks: "encoder.layers",
    published_front: "",
    published_classes: &["SiglipText", "SiglipModel", "Siglip2Text", "Siglip2Model"],
    foreign: &["vision_model"],
    layers: &[
        Projection::new(ProjectionRole::Query, "self_attn.q_proj", None, &["self_attn.q_proj"]),
        Projection::new(ProjectionRole::Key, "self_attn.k_proj", None, &["self_attn.k_proj"]),
        Projection::new(ProjectionRole::Value, "self_attn.v_proj", None, &["self_attn.v_proj"]),
        Projection::new(ProjectionRole::Output, "self_attn.out_proj", None, &["self_attn.out_proj"]),
        Projection::new(ProjectionRole::Up, "mlp.fc1", None, &["mlp.fc1"]),
        Projection::new(ProjectionRole::Down, "mlp.fc2", None, &["mlp.fc2"]),
    ],
};

impl TextFamily for SiglipText {
    fn name(&self) -> &'static str {
        self.name
    }

    fn described(&self, settings: &Settings<'_>) -> Result<TextEncoderConfig, String> {
        settings.expect_model(self.models)?;
        // The full model nests the text tower's settings.
        let settings = settings.of_part(&["text_config"]);
        settings.only(&[
            "hidden_act",
            "hidden_size",
            "intermediate_size",
            "layer_norm_eps",
            "max_position_embeddings",
            "num_attention_heads",
            "num_hidden_layers",
            "projection_size",
            "text_config",
            "vision_config",
            "vocab_size",
        ])?;
        let integer =
            |key: &str, published: i64| Ok::<_, String>(settings.integer(key)?.unwrap_or(published));
        let width = integer("hidden_size", 768)?;
        let published = self.published();
        Ok(TextEncoderConfig {
            width,
            depth: integer("num_hidden_layers", 12)?,
            n_heads: integer("num_attention_heads", 12)?,
            vocabulary: integer("vocab_size", 32000)?,
            context: integer("max_position_embeddings", 64)?,
            state_width: integer("projection_size", width)?,
            variant: Variant {
                norm_eps: settings.number("layer_norm_eps")?.or(published.norm_eps),
                mlp_width: Some(integer("intermediate_size", 3072)?),
                activation: Some(Activation::of(&settings, "hidden_act", Activation::GeluPytorchTanh)?),
                ..Variant::default()
            },
        })
    }

    fn published(&self) -> Variant {
        Variant { norm_eps: Some(1e-6), activation: Some(Activation::GeluPytorchTanh), ..Variant::default() }
    }

    fn spec(&self, cfg: &TextEncoderConfig) -> EncoderSpec<WordInput> {
        EncoderSpec {
            name: self.name(),
            prefix: "txt_backbone",
            width: cfg.width,
            depth: cfg.depth,
            n_heads: cfg.n_heads,
            input: WordInput {
                vocabulary: cfg.vocabulary,
                context: cfg.context,
                tokenizer: self.tokenizer,
                padding: self.padding,
                sentence: SentenceAt::Last,
            },
            optional: &[],
            wanted: "a SigLIP text encoder (`head.weight` beside `embeddings.token_embedding.weight`)",
            layouts: LAYOUTS,
            projections: PROJECTIONS,
        }
    }

    fn build(
        &self,
        path: &ParamPath,
        cfg: &TextEncoderConfig,
        register: &mut Register<'_>,
    ) -> Box<dyn TextEncoder> {
        let cfg = TextEncoderConfig { variant: cfg.variant.or(self.published()), ..cfg.clone() };
        Box::new(Siglip::new(path, &cfg, self.spec(&cfg), register))
    }
}

#[derive(Debug)]
struct Siglip {
    token_embedding: Tensor,
    position_embedding: Tensor,
    blocks: Vec<Block>,
    final_layer_norm: LayerNorm,
    head: Linear,
    spec: EncoderSpec<WordInput>,
}

impl Siglip {
    fn new(
        path: &ParamPath,
        cfg: &TextEncoderConfig,
        spec: EncoderSpec<WordInput>,
        register: &mut Register<'_>,
    ) -> Self {
        let (t, embeddings) = (cfg.width, path / "embeddings");
        let table = |name: &str, rows: i64| {
            (&embeddings / name).parameter("weight", &[rows, t], Init::Normal(1.0 / (t as f64).sqrt()))
        };
        let (token_embedding, position_embedding) =
            (table("token_embedding", cfg.vocabulary), table("position_embedding", cfg.context));
        let layers = path / "encoder" / "layers";
        let mut block = |index: i64| {
            let path = &layers / index;
            let block = Block::new(&path, cfg);
            register(index as usize, &path);
            block
        };
        Self {
            token_embedding,
            position_embedding,
            blocks: (0..cfg.depth).map(&mut block).collect(),
            final_layer_norm: norm(&(path / "final_layer_norm"), cfg),
            head: linear(&(path / "head"), t, cfg.state_width),
            spec,
        }
    }
}

impl TextEncoder for Siglip {
    fn spec(&self) -> &EncoderSpec<WordInput> {
        &self.spec
    }

    fn embed(&self, ids: &Tensor) -> Tensor {
        let positions = self.position_embedding.narrow(0, 0, ids.size()[1]);
        Tensor::embedding(&self.token_embedding, ids, -1, false, false) + positions
    }

    fn block(&self, index: usize, words: &Tensor, guest: &Guest<'_>) -> Tensor {
        let block = &self.blocks[index];
        let words = words + block.attend(&block.norm1.forward(words));
        let normed = block.norm2.forward(&words);
        let ys = &words + block.fc2.forward(&block.activation.forward(&block.fc1.forward(&normed)));
        with_addition(ys, guest(AtMlp { block: index, residual: &words, normalised: &normed }))
    }

    fn finish(&self, words: &Tensor, ids: &Tensor) -> TextOutput {
        let words = self.final_layer_norm.forward(words);
        let state = self.head.forward(&self.at_sentence(&words, ids));
        TextOutput { words, state }
    }
}

fn norm(path: &ParamPath, cfg: &TextEncoderConfig) -> LayerNorm {
    LayerNorm::new(path, cfg.width, cfg.variant.norm_eps.unwrap_or(1e-6))
}

fn linear(path: &ParamPath, n_in: i64, n_out: i64) -> Linear {
    Linear::new(path, n_in, n_out, Init::Normal(0.02), Init::Const(0.0))
}

/// One transformer block.
#[derive(Debug)]
struct Block {
    norm1: LayerNorm,
    /// Query, key and value.
    projections: [Linear; 3],
    output: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    activation: Activation,
    n_heads: i64,
}

impl Block {
    fn new(path: &ParamPath, cfg: &TextEncoderConfig) -> Self {
        let (t, attention, mlp) = (cfg.width, path / "self_attn", path / "mlp");
        Self {
            norm1: norm(&(path / "layer_norm1"), cfg),
            projections: ["q_proj", "k_proj", "v_proj"].map(|name| linear(&(&attention / name), t, t)),
            output: linear(&(&attention / "out_proj"), t, t),
            norm2: norm(&(path / "layer_norm2"), cfg),
            fc1: linear(&(&mlp / "fc1"), t, cfg.mlp_width()),
            fc2: linear(&(&mlp / "fc2"), cfg.mlp_width(), t),
            activation: cfg.variant.activation.unwrap_or(Activation::GeluPytorchTanh),
            n_heads: cfg.n_heads,
        }
    }

    fn attend(&self, words: &Tensor) -> Tensor {
        let (b, k, t) = (words.size()[0], words.size()[1], words.size()[2]);
        let [queries, keys, values] = [0, 1, 2].map(|index: usize| {
            self.projections[index].forward(words).view([b, k, self.n_heads, -1]).transpose(1, 2) // b h k t
        });
        let mixed = match queries.kind() {
            Kind::Double => attention_with_float_softmax(&queries, &keys, &values),
            _ => attention(&queries, &keys, &values, 0.0, false),
        };
        self.output.forward(&mixed.transpose(1, 2).reshape([b, k, t]))
    }
}

/// Attention in float64 with the softmax in float32, as the reference library computes it in every precision.
///
/// - queries, keys, values: `[batch, heads, K, head width]`
fn attention_with_float_softmax(queries: &Tensor, keys: &Tensor, values: &Tensor) -> Tensor {
    let scale = (queries.size()[3] as f64).powf(-0.5);
    let scores = queries.matmul(&keys.transpose(-2, -1)) * scale;
    scores.softmax(-1, Kind::Float).to_kind(queries.kind()).matmul(values)
}
