//! Bottleneck adapters with densely connected convolution branches.

mod dense;
mod text;
mod visual;

pub use dense::DenseBranches;
pub use text::TextAdapter;
pub use visual::{VisualAdapter, VisualAdapterConfig};

/// Epsilon of the batch normalisations in all adapters.
const ADAPTER_NORM_EPS: f64 = 1e-3;
