use std::fmt;

use tch::Tensor;
use torch_ext::ParamPath;
use torch_ext::flops::{Cost, Grad, linear};
use weight_files::Settings;

use crate::Stage;
use crate::cost::{Sizes, blocks};
use crate::guest::{Guest, Register};
use crate::spec::{EncoderSpec, SentenceAt, WordInput};
use crate::variant::{Variant, sizes_that_differ};

/// Sizes of a text encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct TextEncoderConfig {
    /// Word width T.
    pub width: i64,
    /// Number of blocks.
    pub depth: i64,
    /// Attention heads.
    pub n_heads: i64,
    /// Tokens in the vocabulary.
    pub vocabulary: i64,
    /// Rows of the position table; at least the tokens per sentence.
    pub context: i64,
    /// Width T' of the sentence vector.
    pub state_width: i64,
    /// In what the blocks differ from the published ones.
    pub variant: Variant,
}

impl dyn TextFamily + '_ {
    /// What the `config.json` beside weights says otherwise than a configuration, as the names of settings with both values. Tables
    /// are left out: their shapes are checked when they are loaded.
    ///
    /// # Errors
    /// As [`TextFamily::described`].
    pub fn differences(
        &self,
        cfg: &TextEncoderConfig,
        settings: &Settings<'_>,
    ) -> Result<Vec<String>, String> {
        let other = self.described(settings)?;
        let sizes = [
            ("width", cfg.width, other.width),
            ("depth", cfg.depth, other.depth),
            ("n_heads", cfg.n_heads, other.n_heads),
            ("state_width", cfg.state_width, other.state_width),
            ("mlp_width", cfg.mlp_width(), other.mlp_width()),
        ];
        let ours = cfg.variant.or(self.published());
        let theirs = other.variant.or(self.published());
        Ok([sizes_that_differ(&sizes), ours.differences(&theirs)].concat())
    }
}

impl TextEncoderConfig {
    /// Hidden width of the MLPs; 4 times the word width if the variant says nothing.
    pub fn mlp_width(&self) -> i64 {
        self.variant.mlp_width.unwrap_or(4 * self.width)
    }
}

/// A text encoder architecture: builds encoders of any size.
pub trait TextFamily: fmt::Debug + Sync {
    /// Name in configs.
    fn name(&self) -> &'static str;

    /// Sizes and variants that the `config.json` of the `transformers` library beside published weights describes.
    ///
    /// # Errors
    /// When it describes another network, or switches something on that is not known here; the message names the setting.
    fn described(&self, settings: &Settings<'_>) -> Result<TextEncoderConfig, String> {
        let _ = settings;
        Err(format!("a config.json is not known for the encoder `{}`", self.name()))
    }

    /// The variant of the published models.
    fn published(&self) -> Variant {
        Variant::default()
    }

    /// Specification of an encoder of these sizes.
    fn spec(&self, cfg: &TextEncoderConfig) -> EncoderSpec<WordInput>;

    /// Builds an encoder and registers its parameters below `path` in the official order.
    fn build(
        &self,
        path: &ParamPath,
        cfg: &TextEncoderConfig,
        register: &mut Register<'_>,
    ) -> Box<dyn TextEncoder>;

    /// FLOPs of a pass over one sentence of `word_len` tokens.
    ///
    /// - grad: which gradients a block's linear layers need, by block index
    /// - state: which gradients the sentence vector's projection needs
    fn cost(&self, cfg: &TextEncoderConfig, word_len: i64, grad: &dyn Fn(i64) -> Grad, state: Grad) -> Cost {
        let sizes = Sizes {
            n: word_len,
            width: cfg.width,
            depth: cfg.depth,
            mlp_width: cfg.mlp_width(),
            gated_mlp: false,
        };
        blocks(sizes, grad) + linear(1, cfg.width, cfg.state_width, state)
    }

    /// Lower bound of the number of parameters. In floating point, because absurdly large sizes could overflow integers.
    fn least_values(&self, cfg: &TextEncoderConfig) -> f64 {
        let [width, depth, mlp, vocabulary, context] =
            [cfg.width, cfg.depth, cfg.mlp_width(), cfg.vocabulary, cfg.context].map(|size| size as f64);
        depth * (4.0 * width + 2.0 * mlp) * width + (vocabulary + context) * width
    }
}

/// Outputs of a text encoder.
#[derive(Debug)]
pub struct TextOutput {
    /// Word features, `[batch, K, T]`, padding included.
    pub words: Tensor,
    /// Sentence vectors, `[batch, T']`.
    pub state: Tensor,
}

/// A text encoder with its parameters.
pub trait TextEncoder: fmt::Debug {
    /// Specification of this encoder.
    fn spec(&self) -> &EncoderSpec<WordInput>;

    /// Embeds token ids with their positions: the input of block 0.
    ///
    /// - ids: int64 `[batch, K]`; result `[batch, K, T]`
    fn embed(&self, ids: &Tensor) -> Tensor;

    /// Runs one block (from 0).
    ///
    /// - words: `[batch, K, T]`; result of the same shape
    fn block(&self, index: usize, words: &Tensor, guest: &Guest<'_>) -> Tensor;

    /// Word features and sentence vectors from the last block's output.
    fn finish(&self, words: &Tensor, ids: &Tensor) -> TextOutput;

    /// Feature of the token at which the sentence vector is read.
    ///
    /// - words: `[batch, K, T]`; ids: int64 `[batch, K]`; result `[batch, T]`
    fn at_sentence(&self, words: &Tensor, ids: &Tensor) -> Tensor {
        let place = match self.spec().input.sentence {
            SentenceAt::LargestId => ids.argmax(-1, true), // b 1
            SentenceAt::Last => return words.select(1, -1),
        };
        let place = place.unsqueeze(-1).expand([-1, 1, words.size()[2]], false); // b 1 t
        words.gather(1, &place, false).squeeze_dim(1)
    }
}

impl dyn TextEncoder + '_ {
    /// Forward pass: embedding, all blocks and [`TextEncoder::finish`].
    ///
    /// - ids: int64 `[batch, K]`; observe: called with the intermediate values
    pub fn forward(&self, ids: &Tensor, guest: &Guest<'_>, observe: &dyn Fn(Stage, &Tensor)) -> TextOutput {
        let mut words = self.embed(ids);
        observe(Stage::Tokens, &words);
        for index in 0..self.n_blocks() {
            words = self.block(index, &words, guest);
            observe(Stage::Block(index), &words);
        }
        self.finish(&words, ids)
    }

    /// Number of blocks.
    pub fn n_blocks(&self) -> usize {
        usize::try_from(self.spec().depth).unwrap_or_default()
    }
}
