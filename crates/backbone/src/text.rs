use std::fmt;

use tch::Tensor;
use torch_ext::ParamPath;
use torch_ext::flops::{Cost, Grad};

use crate::Stage;
use crate::guest::{Guest, Register};
use crate::spec::{EncoderSpec, SentenceAt, WordInput};

/// Sizes of a text encoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextEncoderConfig {
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
}

/// Text encoders of one design, in any size.
pub trait TextFamily: fmt::Debug + Sync {
    /// What it is called in configs.
    fn name(&self) -> &'static str;

    /// What is true of it in these sizes.
    fn spec(&self, cfg: &TextEncoderConfig) -> EncoderSpec<WordInput>;

    /// Registers everything below `path` in the official order.
    fn build(
        &self,
        path: &ParamPath,
        cfg: &TextEncoderConfig,
        register: &mut Register<'_>,
    ) -> Box<dyn TextEncoder>;

    /// Operations of a pass over one sentence of `word_len` tokens.
    ///
    /// - grad: what of a block's linear layers has a gradient; state: what of the sentence vector's projection has
    fn cost(&self, cfg: &TextEncoderConfig, word_len: i64, grad: &dyn Fn(i64) -> Grad, state: Grad) -> Cost;

    /// Values of its parameters, at least. In floating point, since the sizes may be absurd.
    fn least_values(&self, cfg: &TextEncoderConfig) -> f64;
}

/// What a text encoder computes.
#[derive(Debug)]
pub struct TextOutput {
    /// Word features, `[batch, K, T]`, padding included.
    pub words: Tensor,
    /// Sentence vectors, `[batch, T']`.
    pub state: Tensor,
}

/// A text encoder with its parameters.
pub trait TextEncoder: fmt::Debug {
    /// What is true of it alone.
    fn spec(&self) -> &EncoderSpec<WordInput>;

    /// The words that enter block 0.
    ///
    /// - ids: int64 `[batch, K]`; result `[batch, K, T]`
    fn embed(&self, ids: &Tensor) -> Tensor;

    /// One block (from 0).
    ///
    /// - words: `[batch, K, T]`; result alike
    fn block(&self, index: usize, words: &Tensor, guest: &Guest<'_>) -> Tensor;

    /// What the last block's output becomes.
    fn finish(&self, words: &Tensor, ids: &Tensor) -> TextOutput;

    /// The feature of the word at which the sentence vector is read.
    ///
    /// - words: `[batch, K, T]`; ids: int64 `[batch, K]`; result `[batch, T]`
    fn at_sentence(&self, words: &Tensor, ids: &Tensor) -> Tensor {
        let place = match self.spec().input.sentence {
            SentenceAt::LargestId => ids.argmax(-1, true), // b 1
        };
        let place = place.unsqueeze(-1).expand([-1, 1, words.size()[2]], false); // b 1 t
        words.gather(1, &place, false).squeeze_dim(1)
    }
}

impl dyn TextEncoder + '_ {
    /// All blocks.
    ///
    /// - ids: int64 `[batch, K]`
    pub fn forward(&self, ids: &Tensor, guest: &Guest<'_>, observe: &dyn Fn(Stage, &Tensor)) -> TextOutput {
        let mut words = self.embed(ids);
        observe(Stage::Tokens, &words);
        for index in 0..self.n_blocks() {
            words = self.block(index, &words, guest);
            observe(Stage::Block(index), &words);
        }
        self.finish(&words, ids)
    }

    /// Blocks.
    pub fn n_blocks(&self) -> usize {
        usize::try_from(self.spec().depth).unwrap_or_default()
    }
}
