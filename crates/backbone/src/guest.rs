//! The hook of the encoders' blocks. A guest looks at a block between attention and MLP, and says what is added to it.
//!
//! ```text
//! x' = x + Attention(Norm(x))
//! y  = x' + MLP(n) + gate * update            n = Norm(x'), update from the guest
//! ```
//!
//! In a block with LayerScale the guest's part is scaled like the MLP's: `y = x' + scale * (MLP(n) + gate * update)`.
//!
//! A guest registers parameters of its own when an encoder is built: `register(block, path)` is called behind the parameters
//! of each block, with the block's place in the name space.

use tch::Tensor;
use torch_ext::ParamPath;

/// What a guest sees of a block.
#[derive(Debug, Clone, Copy)]
pub struct AtMlp<'a> {
    /// The block, from 0.
    pub block: usize,
    /// The residual stream between attention and MLP, `[n, tokens, width]`.
    pub residual: &'a Tensor,
    /// The same, normalised: what the MLP sees.
    pub normalised: &'a Tensor,
}

/// What a guest adds to a block.
#[derive(Debug)]
pub struct Addition {
    /// `[batch, tokens, width]`.
    pub update: Tensor,
    /// Its weight by channel, `[width]`; 1 without it.
    pub gate: Option<Tensor>,
    /// int64 `[batch]`: the row of the stream that a row of the update goes with. Without it they are as many. From this block
    /// on, the stream has a row for each row of the update.
    pub rows: Option<Tensor>,
}

/// Asked by every block.
pub type Guest<'a> = dyn Fn(AtMlp<'_>) -> Option<Addition> + 'a;

/// Registers a guest's parameters below a block.
pub type Register<'a> = dyn FnMut(usize, &ParamPath) + 'a;

/// For an encoder as it was published.
pub fn nobody(_: AtMlp<'_>) -> Option<Addition> {
    None
}
