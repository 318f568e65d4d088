use tch::Tensor;
use torch_ext::layers::Mode;

/// An intermediate value of the encoders, for [`Pass::observe`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Patch embedding before special tokens and positions, `[batch, patches, D]`.
    Patches,
    /// Tokens that enter the first image block, `[batch, special + patches, D]`.
    Tokens,
    /// Output of an image block (from 0), all tokens.
    ImageBlock(usize),
    /// Patches that enter the cross-modal unit of an image block's adapter (block from 0), `[batch, patches, r]`.
    AdapterPatches(usize),
    /// Words that enter the first text block, `[batch, K, T]`.
    Words,
    /// Output of a text block (from 0), `[batch, K, T]`.
    TextBlock(usize),
}

/// Options of a forward pass.
#[derive(Clone, Copy)]
pub struct Pass<'a> {
    /// Training or evaluation behaviour of dropout and batch normalisation.
    pub mode: Mode,
    /// int64 `[batch]`: index of the image that each sentence is about, if sentences share images. Each image is encoded once
    /// up to the first adapter's cross-modal unit; nothing before it depends on the text.
    pub image_of: Option<&'a Tensor>,
    /// Called with the intermediate values of the encoders.
    pub observe: &'a dyn Fn(Stage, &Tensor),
}

impl Pass<'_> {
    /// Inference: running statistics, no dropout.
    pub const EVAL: Pass<'static> = Pass { mode: Mode::Eval, image_of: None, observe: &|_, _| {} };
    /// Training: batch statistics and dropout.
    pub const TRAIN: Pass<'static> = Pass { mode: Mode::Train, image_of: None, observe: &|_, _| {} };
}

impl std::fmt::Debug for Pass<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pass")
            .field("mode", &self.mode)
            .field("image_of", &self.image_of)
            .finish_non_exhaustive()
    }
}

/// Token ids of a training batch, each int64 `[batch, K]`.
#[derive(Debug, Clone, Copy)]
pub struct Triplet<'a> {
    /// The expressions.
    pub words: &'a Tensor,
    /// Other expressions of the same referents.
    pub positives: &'a Tensor,
    /// Expressions of other objects in the same images; zeros where there is none.
    pub negatives: &'a Tensor,
}

/// Text input of the network.
#[derive(Debug, Clone, Copy)]
pub enum Sentences<'a> {
    /// Expressions alone, int64 `[batch, K]`.
    Plain(&'a Tensor),
    /// Expressions with positives and negatives. They go through the text encoder as one batch, so that its batch statistics
    /// cover all three.
    Triplet(Triplet<'a>),
}

impl<'a> From<&'a Tensor> for Sentences<'a> {
    fn from(words: &'a Tensor) -> Self {
        Self::Plain(words)
    }
}

impl<'a> From<Triplet<'a>> for Sentences<'a> {
    fn from(ids: Triplet<'a>) -> Self {
        Self::Triplet(ids)
    }
}

impl<'a> Sentences<'a> {
    /// The expressions.
    pub(crate) fn words(self) -> &'a Tensor {
        match self {
            Self::Plain(words) | Self::Triplet(Triplet { words, .. }) => words,
        }
    }
}
