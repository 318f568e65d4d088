/// A value on its way through the encoders, for looking inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Patch embedding before class token and positions, `[batch, patches, D]`.
    Patches,
    /// Tokens that enter the first image block, `[batch, 1 + registers + patches, D]`.
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
