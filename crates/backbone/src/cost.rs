//! FLOPs of transformer blocks, which the designs share.

use torch_ext::flops::{Cost, Grad, attention, linear};

/// Sizes that decide what a transformer costs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    /// Number of tokens.
    pub(crate) n: i64,
    /// Width of a token.
    pub(crate) width: i64,
    /// Number of blocks.
    pub(crate) depth: i64,
    /// Hidden width of the MLPs.
    pub(crate) mlp_width: i64,
    /// Whether the MLPs are gated.
    pub(crate) gated_mlp: bool,
}

/// FLOPs of all blocks: query, key and value, attention, its output, and the MLP.
///
/// - grad: which gradients a block's linear layers need, by block index
pub(crate) fn blocks(sizes: Sizes, grad: &dyn Fn(i64) -> Grad) -> Cost {
    let Sizes { n, width, depth, mlp_width, gated_mlp } = sizes;
    let n_in = if gated_mlp { 2 * mlp_width } else { mlp_width };
    let block = |index: i64| {
        let grad = grad(index);
        linear(n, width, 3 * width, grad)
            + attention(n, n, width, grad.input)
            + linear(n, width, width, grad)
            + linear(n, width, n_in, grad)
            + linear(n, mlp_width, width, grad)
    };
    (0..depth).map(block).sum()
}
