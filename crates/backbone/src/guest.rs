//! Hook in the encoders' blocks. A guest, for example an adapter, reads a block's state between attention and MLP and returns a
//! term that is added to the block's output.
//!
//! ```text
//! x' = x + Attention(Norm(x))
//! y  = x' + MLP(n) + gate * update            n = Norm(x'), update from the guest
//! ```
//!
//! In a block with LayerScale, the guest's term is scaled like the MLP's: `y = x' + scale * (MLP(n) + gate * update)`.
//!
//! A guest registers its parameters while an encoder is built: `register(block, path)` is called after the parameters of each
//! block were registered, with the block's parameter path.

use tch::Tensor;
use torch_ext::ParamPath;

/// Input of a guest: a block's state between attention and MLP.
#[derive(Debug, Clone, Copy)]
pub struct AtMlp<'a> {
    /// The block, from 0.
    pub block: usize,
    /// The residual stream between attention and MLP, `[n, tokens, width]`.
    pub residual: &'a Tensor,
    /// The residual stream after normalisation, `[n, tokens, width]`: the MLP's input.
    pub normalised: &'a Tensor,
}

/// Output of a guest: a term added to the block's output.
#[derive(Debug)]
pub struct Addition {
    /// The added term, `[batch, tokens, width]`.
    pub update: Tensor,
    /// Weight of the update per channel, `[width]`. Without it, the weight is 1.
    pub gate: Option<Tensor>,
    /// int64 `[batch]`: for each row of the update, its row of the residual stream. Without it, both have the same number of
    /// rows. From this block on, the residual stream has one row per row of the update.
    pub rows: Option<Tensor>,
}

/// A guest, called by every block. None means that nothing is added.
pub type Guest<'a> = dyn Fn(AtMlp<'_>) -> Option<Addition> + 'a;

/// Registers a guest's parameters below a block, given its index and parameter path.
pub type Register<'a> = dyn FnMut(usize, &ParamPath) + 'a;

/// The guest that adds nothing, for an encoder as published.
pub fn nobody(_: AtMlp<'_>) -> Option<Addition> {
    None
}
