//! Layers that use PyTorch's parameter names.

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

/// Training or inference. Training uses batch statistics and dropout, inference running statistics and no dropout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Training.
    Train,
    /// Second forward pass of activation checkpointing: as training, but running statistics are not updated.
    Recompute,
    /// Inference.
    Eval,
}

impl Mode {
    /// Whether batch statistics and dropout are used.
    pub fn is_train(self) -> bool {
        self != Self::Eval
    }
}
