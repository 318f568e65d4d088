//! CLIP's text encoder (specification, section 3).

use tch::Tensor;
use torch_ext::flops::{Cost, Grad, attention as attention_cost, linear as linear_cost};
use torch_ext::layers::{LayerNorm, Linear, Mode, MultiheadAttention};
use torch_ext::{Init, ParamPath};

use crate::clip_names::LAYOUTS;
use crate::guest::{Addition, AtMlp, Guest, Register};
use crate::spec::{EncoderSpec, SentenceAt, Tokenizer, WordInput};
use crate::text::{TextEncoder, TextEncoderConfig, TextFamily, TextOutput};

const NORM_EPS: f64 = 1e-5;
/// Hidden width of the MLPs in units of T.
const MLP_RATIO: i64 = 4;

/// CLIP's text encoder, `clip` in configs.
#[derive(Debug)]
pub struct ClipText;

impl TextFamily for ClipText {
    fn name(&self) -> &'static str {
        "clip"
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
        }
    }

    fn build(
        &self,
        path: &ParamPath,
        cfg: &TextEncoderConfig,
        register: &mut Register<'_>,
    ) -> Box<dyn TextEncoder> {
        Box::new(Clip::new(path, cfg, self.spec(cfg), register))
    }

    fn cost(&self, cfg: &TextEncoderConfig, word_len: i64, grad: &dyn Fn(i64) -> Grad, state: Grad) -> Cost {
        let (k, t) = (word_len, cfg.width);
        let block = |index: i64| {
            let grad = grad(index);
            linear_cost(k, t, 3 * t, grad)
                + attention_cost(k, k, t, grad.input)
                + linear_cost(k, t, t, grad)
                + linear_cost(k, t, MLP_RATIO * t, grad)
                + linear_cost(k, MLP_RATIO * t, t, grad)
        };
        (0..cfg.depth).map(block).sum::<Cost>() + linear_cost(1, t, cfg.state_width, state)
    }

    fn least_values(&self, cfg: &TextEncoderConfig) -> f64 {
        let [width, depth, vocabulary, context] =
            [cfg.width, cfg.depth, cfg.vocabulary, cfg.context].map(|size| size as f64);
        depth * (4.0 + 2.0 * MLP_RATIO as f64) * width * width + (vocabulary + context) * width
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
            ln_final: LayerNorm::new(&(path / "ln_final"), t, NORM_EPS),
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
}

impl Block {
    fn new(path: &ParamPath, cfg: &TextEncoderConfig) -> Self {
        let t = cfg.width;
        // CLIP's own initialisation, which only matters if the encoder is trained from scratch.
        let linear = |path: ParamPath, n_in: i64, n_out: i64, deviation: f64| {
            Linear::new(&path, n_in, n_out, Init::Normal(deviation), Init::Const(0.0))
        };
        let deep = (2.0 * cfg.depth as f64).powf(-0.5) * (t as f64).powf(-0.5);
        Self {
            attn: MultiheadAttention::new(&(path / "attn"), t, cfg.n_heads, 0.0),
            ln_1: LayerNorm::new(&(path / "ln_1"), t, NORM_EPS),
            c_fc: linear(path / "mlp" / "c_fc", t, MLP_RATIO * t, (2.0 * t as f64).powf(-0.5)),
            c_proj: linear(path / "mlp" / "c_proj", MLP_RATIO * t, t, deep),
            ln_2: LayerNorm::new(&(path / "ln_2"), t, NORM_EPS),
        }
    }

    fn forward(&self, xs: &Tensor, guest: impl Fn(&Tensor, &Tensor) -> Option<Addition>) -> Tensor {
        // There is no dropout, so the mode does not matter.
        let xs = xs + self.attn.forward_self(&self.ln_1.forward(xs), Mode::Eval, true);
        let normed = self.ln_2.forward(&xs);
        let hidden = self.c_fc.forward(&normed);
        let quick_gelu = &hidden * (&hidden * 1.702).sigmoid();
        let ys = &xs + self.c_proj.forward(&quick_gelu);
        match guest(&xs, &normed) {
            Some(Addition { update, gate: Some(gate), .. }) => ys + update * gate,
            Some(Addition { update, gate: None, .. }) => ys + update,
            None => ys,
        }
    }
}
