//! CLIP's text encoder (specification, section 3).

use tch::Tensor;
use torch_ext::layers::{LayerNorm, Linear, Mode, MultiheadAttention};
use torch_ext::{Init, ParamPath};
use weight_files::Settings;

use crate::clip_names::{LAYOUTS, PROJECTIONS};
use crate::guest::{Addition, AtMlp, Guest, Register};
use crate::residual::with_addition;
use crate::spec::{EncoderSpec, SentenceAt, Tokenizer, WordInput};
use crate::text::{TextEncoder, TextEncoderConfig, TextFamily, TextOutput};
use crate::variant::{Activation, Variant};

/// CLIP's text encoder, `clip` in configs.
#[derive(Debug)]
pub struct ClipText;

impl TextFamily for ClipText {
    fn name(&self) -> &'static str {
        "clip"
    }

    fn described(&self, settings: &Settings<'_>) -> Result<TextEncoderConfig, String> {
        settings.expect_model(&["clip", "clip_text_model"])?;
        // The full model nests the text tower's settings. Old files have both keys; `text_config_dict` takes precedence.
        let whole = settings;
        let settings = whole.of_part(&["text_config_dict", "text_config"]);
        settings.only(&[
            "hidden_act",
            "hidden_size",
            "intermediate_size",
            "layer_norm_eps",
            "logit_scale_init_value",
            "max_position_embeddings",
            "num_attention_heads",
            "num_hidden_layers",
            "projection_dim",
            "text_config",
            "text_config_dict",
            "vision_config",
            "vision_config_dict",
            "vocab_size",
        ])?;
        let integer =
            |key: &str, published: i64| Ok::<_, String>(settings.integer(key)?.unwrap_or(published));
        let published = self.published();
        // The library reads the sentence vector at the largest id if this is 2, the value of old files, and otherwise at the first
        // token of this id: the same for the end token, which is the last of the vocabulary.
        let (end, vocabulary) = (settings.integer("eos_token_id")?, integer("vocab_size", 49408)?);
        if let Some(end) = end.filter(|&end| end != 2 && end != vocabulary - 1) {
            return Err(format!(
                "config.json: eos_token_id is {end}: sentences that do not end with the vocabulary's last token are not known here"
            ));
        }
        Ok(TextEncoderConfig {
            width: integer("hidden_size", 512)?,
            depth: integer("num_hidden_layers", 12)?,
            n_heads: integer("num_attention_heads", 8)?,
            vocabulary: integer("vocab_size", 49408)?,
            context: integer("max_position_embeddings", 77)?,
            // The whole model's is the one that its projection has.
            state_width: whole
                .integer("projection_dim")?
                .map_or_else(|| integer("projection_dim", 512), Ok)?,
            variant: Variant {
                norm_eps: settings.number("layer_norm_eps")?.or(published.norm_eps),
                mlp_width: settings.integer("intermediate_size")?.or(Some(2048)),
                activation: Some(Activation::of(&settings, "hidden_act", Activation::QuickGelu)?),
                ..Variant::default()
            },
        })
    }

    fn published(&self) -> Variant {
        Variant { norm_eps: Some(1e-5), activation: Some(Activation::QuickGelu), ..Variant::default() }
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
                tokenizer: Tokenizer::Clip,
                padding: 0,
                sentence: SentenceAt::LargestId,
            },
            // Files with only the text tower lack it.
            optional: &["logit_scale"],
            wanted: "a CLIP text encoder (`token_embedding.weight` or `text_model.embeddings.token_embedding.weight`)",
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
        let variant = cfg.variant.or(self.published());
        let cfg = TextEncoderConfig { variant, ..cfg.clone() };
        Box::new(Clip::new(path, &cfg, self.spec(&cfg), register))
    }
}

#[derive(Debug)]
struct Clip {
    positional_embedding: Tensor,
    text_projection: Tensor,
    token_embedding: Tensor,
    blocks: Vec<Block>,
    ln_final: LayerNorm,
    spec: EncoderSpec<WordInput>,
}

impl Clip {
    fn new(
        path: &ParamPath,
        cfg: &TextEncoderConfig,
        spec: EncoderSpec<WordInput>,
        register: &mut Register<'_>,
    ) -> Self {
        let t = cfg.width;
        let norm_eps = cfg.variant.norm_eps.unwrap_or(1e-5);
        let positional_embedding =
            path.parameter("positional_embedding", &[cfg.context, t], Init::Normal(0.01));
        let text_projection =
            path.parameter("text_projection", &[t, cfg.state_width], Init::Normal(1.0 / (t as f64).sqrt()));
        // In the published files, but only CLIP's own loss uses it.
        let _ = path.frozen().parameter("logit_scale", &[], Init::Const((1.0_f64 / 0.07).ln()));
        let blocks = path / "transformer" / "resblocks";
        let mut block = |index: i64| {
            let path = &blocks / index;
            let block = Block::new(&path, cfg);
            register(index as usize, &path);
            block
        };
        Self {
            positional_embedding,
            text_projection,
            blocks: (0..cfg.depth).map(&mut block).collect(),
            token_embedding: (path / "token_embedding").parameter(
                "weight",
                &[cfg.vocabulary, t],
                Init::Normal(0.02),
            ),
            ln_final: LayerNorm::new(&(path / "ln_final"), t, norm_eps),
            spec,
        }
    }
}

impl TextEncoder for Clip {
    fn spec(&self) -> &EncoderSpec<WordInput> {
        &self.spec
    }

    /// There is no padding mask, only the causal one: padding is processed like words (quirk Q5).
    fn embed(&self, ids: &Tensor) -> Tensor {
        let positions = self.positional_embedding.narrow(0, 0, ids.size()[1]);
        Tensor::embedding(&self.token_embedding, ids, -1, false, false) + positions
    }

    fn block(&self, index: usize, words: &Tensor, guest: &Guest<'_>) -> Tensor {
        self.blocks[index]
            .forward(words, |residual, normalised| guest(AtMlp { block: index, residual, normalised }))
    }

    fn finish(&self, words: &Tensor, ids: &Tensor) -> TextOutput {
        let words = self.ln_final.forward(words);
        let state = self.at_sentence(&words, ids).matmul(&self.text_projection);
        TextOutput { words, state }
    }
}

/// One transformer block.
#[derive(Debug)]
struct Block {
    attn: MultiheadAttention,
    ln_1: LayerNorm,
    c_fc: Linear,
    c_proj: Linear,
    ln_2: LayerNorm,
    activation: Activation,
}

impl Block {
    fn new(path: &ParamPath, cfg: &TextEncoderConfig) -> Self {
        let t = cfg.width;
        // CLIP's own initialisation, which only matters if the encoder is trained from scratch.
        let linear = |path: ParamPath, n_in: i64, n_out: i64, deviation: f64| {
            Linear::new(&path, n_in, n_out, Init::Normal(deviation), Init::Const(0.0))
        };
        let norm_eps = cfg.variant.norm_eps.unwrap_or(1e-5);
        let deep = (2.0 * cfg.depth as f64).powf(-0.5) * (t as f64).powf(-0.5);
        Self {
            attn: MultiheadAttention::new(&(path / "attn"), t, cfg.n_heads, 0.0),
            ln_1: LayerNorm::new(&(path / "ln_1"), t, norm_eps),
            c_fc: linear(path / "mlp" / "c_fc", t, cfg.mlp_width(), (2.0 * t as f64).powf(-0.5)),
            c_proj: linear(path / "mlp" / "c_proj", cfg.mlp_width(), t, deep),
            ln_2: LayerNorm::new(&(path / "ln_2"), t, norm_eps),
            activation: cfg.variant.activation.unwrap_or(Activation::QuickGelu),
        }
    }

    fn forward(&self, xs: &Tensor, guest: impl Fn(&Tensor, &Tensor) -> Option<Addition>) -> Tensor {
        // There is no dropout, so the mode does not matter.
        let xs = xs + self.attn.forward_self(&self.ln_1.forward(xs), Mode::Eval, true);
        let normed = self.ln_2.forward(&xs);
        let hidden = self.c_fc.forward(&normed);
        let ys = &xs + self.c_proj.forward(&self.activation.forward(&hidden));
        with_addition(ys, guest(&xs, &normed))
    }
}
