use torch_ext::{Group, OptimizerGroup, Trains};
use weight_files::Layout;

use crate::projection::Projections;

/// Parameter group of an image encoder.
pub const IMAGE_ENCODER: Group = Group {
    name: "image_encoder",
    part_of: None,
    optimizer: OptimizerGroup::Encoders,
    trains: Trains::WithEncoders,
};

/// Parameter group of a text encoder.
pub const TEXT_ENCODER: Group = Group { name: "text_encoder", ..IMAGE_ENCODER };

/// Specification of one encoder: name, sizes, input format and file layouts. `I` is the input format, [`PixelInput`] or
/// [`WordInput`].
#[derive(Debug, Clone, Copy)]
pub struct EncoderSpec<I> {
    /// Name in configs.
    pub name: &'static str,
    /// Prefix of the official parameter names.
    pub prefix: &'static str,
    /// Width of a token.
    pub width: i64,
    /// Number of blocks.
    pub depth: i64,
    /// Attention heads.
    pub n_heads: i64,
    /// Input format.
    pub input: I,
    /// Names, without the prefix, of unused parameters that published files may omit.
    pub optional: &'static [&'static str],
    /// What a file must hold, for error messages.
    pub wanted: &'static str,
    /// Naming schemes of the encoder's published files.
    pub layouts: &'static [Layout],
    /// The blocks' linear layers.
    pub projections: Projections,
}

impl<I> EncoderSpec<I> {
    /// Drops the input format, so that specifications of image and text encoders have one type.
    pub fn without_input(self) -> EncoderSpec<()> {
        EncoderSpec {
            name: self.name,
            prefix: self.prefix,
            width: self.width,
            depth: self.depth,
            n_heads: self.n_heads,
            input: (),
            optional: self.optional,
            wanted: self.wanted,
            layouts: self.layouts,
            projections: self.projections,
        }
    }
}

/// Input format of an image encoder: how images are prepared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PixelInput {
    /// Side of a patch in pixels.
    pub patch_size: i64,
    /// Tokens in front of the patches: class and registers.
    pub n_special: i64,
    /// Mean of the normalisation, RGB, for pixel values divided by 255.
    pub mean: [f32; 3],
    /// Standard deviation of the normalisation, RGB, for pixel values divided by 255.
    pub std: [f32; 3],
    /// Border colour of a letterboxed image, RGB.
    pub border: [u8; 3],
}

/// Input format of a text encoder: how sentences are prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WordInput {
    /// Tokens in the vocabulary.
    pub vocabulary: i64,
    /// Maximum number of tokens in a sentence.
    pub context: i64,
    /// Tokenizer that converts text to token ids.
    pub tokenizer: Tokenizer,
    /// Id of the padding token.
    pub padding: i64,
    /// Position at which the sentence vector is read.
    pub sentence: SentenceAt,
}

/// A tokenizer, which converts text to token ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tokenizer {
    /// CLIP's byte-pair tokenizer.
    Clip,
    /// SigLIP's, from a file: text in lower case, without punctuation.
    Siglip,
    /// SigLIP 2's (Gemma's), from a file: text in lower case.
    Siglip2,
}

/// Position at which a text encoder's sentence vector is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SentenceAt {
    /// At the token with the largest id, CLIP's end token.
    LargestId,
    /// At the last position, whether it is a word or padding.
    Last,
}
