//! The second half of a block: MLP, guest and residual sum.

use tch::{Kind, Tensor};
use torch_ext::layers::{LayerNorm, scaled_sum};

use crate::guest::Addition;
use crate::image::rows_of;

/// Whether the residual stream is in half precision (bf16 or fp16), in which case it stays in it.
pub(crate) fn is_half(tokens: &Tensor) -> bool {
    matches!(tokens.kind(), Kind::BFloat16 | Kind::Half)
}

pub(crate) fn normalised(norm: &LayerNorm, tokens: &Tensor) -> Tensor {
    if is_half(tokens) { norm.forward_in_dtype(tokens) } else { norm.forward(tokens) }
}

/// `tokens + scale * (hidden + gate * update)`.
///
/// - tokens, hidden: the residual stream and the MLP's output, `[n, tokens, D]`; scale: `[D]`
/// - addition: what a guest adds
pub(crate) fn with_guest(
    tokens: &Tensor,
    hidden: &Tensor,
    scale: &Tensor,
    addition: Option<Addition>,
) -> Tensor {
    let low = is_half(tokens);
    let Some(Addition { update, gate, rows }) = addition else {
        return scaled_sum(tokens, hidden, scale, low);
    };
    let hidden = rows_of(hidden, rows.as_ref());
    let both = match gate {
        Some(gate) => scaled_sum(&hidden, &update, &gate, low),
        None => hidden + update,
    };
    scaled_sum(&rows_of(tokens, rows.as_ref()), &both, scale, low)
}

/// `ys + gate * update`, in a block without LayerScale.
///
/// - ys: the block's output without the guest; addition: what a guest adds
pub(crate) fn with_addition(ys: Tensor, addition: Option<Addition>) -> Tensor {
    match addition {
        Some(Addition { update, gate: Some(gate), .. }) => ys + update * gate,
        Some(Addition { update, gate: None, .. }) => ys + update,
        None => ys,
    }
}
