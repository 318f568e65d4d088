//! Layers under PyTorch's parameter names.

mod attention;
mod conv;
mod dropout;
mod linear;
mod norm;
mod norm_across;
mod positions;

pub use attention::{MultiheadAttention, attention};
pub use conv::{Conv1d, Conv2d, ConvBiasInit, ConvConfig};
pub use dropout::dropout;
pub use linear::{Linear, linear};
pub use norm::{BatchNorm, LayerNorm, scaled_sum};
pub use positions::{grid_positions, sequence_positions};

/// Whether a pass trains: batch statistics and dropout, or running statistics and none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Training.
    Train,
    /// Training, computed once more for the backward pass: running statistics stay as they are.
    Recompute,
    /// Inference.
    Eval,
}

impl Mode {
    /// Whether it takes batch statistics and drops out.
    pub fn is_train(self) -> bool {
        self != Self::Eval
    }
}
