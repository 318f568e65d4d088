use torch_ext::{Group, OptimizerGroup, Trains};
use weight_files::Layout;

/// Parameters of an image encoder.
pub const IMAGE_ENCODER: Group = Group {
    name: "image_encoder",
    part_of: None,
    optimizer: OptimizerGroup::Encoders,
    trains: Trains::WithEncoders,
};

/// Parameters of a text encoder.
pub const TEXT_ENCODER: Group = Group { name: "text_encoder", ..IMAGE_ENCODER };

/// What is true of one encoder alone. `I` is what it takes: [`PixelInput`] or [`WordInput`].
#[derive(Debug)]
pub struct EncoderSpec<I> {
    /// What it is called in configs.
    pub name: &'static str,
    /// What the official names of its parameters begin with.
    pub prefix: &'static str,
    /// Width of a token.
    pub width: i64,
    /// Blocks.
    pub depth: i64,
    /// Attention heads.
    pub n_heads: i64,
    /// What it takes.
    pub input: I,
    /// Parameters, without the prefix, that files of the encoder may lack since nothing computes with them.
    pub optional: &'static [&'static str],
    /// What a file must hold, for errors.
    pub wanted: &'static str,
    /// The naming schemes it is published in.
    pub layouts: &'static [Layout],
}

impl<I> EncoderSpec<I> {
    /// What encoders of all kinds have.
    pub fn without_input(self) -> EncoderSpec<()> {
        let Self { name, prefix, width, depth, n_heads, input: _, optional, wanted, layouts } = self;
        EncoderSpec { name, prefix, width, depth, n_heads, input: (), optional, wanted, layouts }
    }
}

/// How an image becomes an image encoder's input.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PixelInput {
    /// Side of a patch in pixels.
    pub patch_size: i64,
    /// Tokens in front of the patches: class and registers.
    pub n_special: i64,
    /// Mean of the normalisation, RGB, in units of 255.
    pub mean: [f32; 3],
    /// Standard deviation of the normalisation, RGB, in units of 255.
    pub std: [f32; 3],
    /// What fills the border of a letterboxed image, RGB.
    pub border: [u8; 3],
}

/// How a sentence becomes a text encoder's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WordInput {
    /// Tokens in the vocabulary.
    pub vocabulary: i64,
    /// Tokens in a sentence at most.
    pub context: i64,
    /// What makes tokens of a text.
    pub tokenizer: Tokenizer,
    /// The token that fills a sentence up.
    pub padding: i64,
    /// Where the sentence vector is read.
    pub sentence: SentenceAt,
}

/// What makes tokens of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tokenizer {
    /// CLIP's byte-pair tokenizer.
    Clip,
}

/// Where a text encoder's sentence vector is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SentenceAt {
    /// At the token with the largest id, CLIP's end token.
    LargestId,
}
