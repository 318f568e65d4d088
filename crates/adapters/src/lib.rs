//! Adapters: guests of frozen encoders, beside the MLPs of some of their blocks ([`backbone::guest`]).
//!
//! - [`VisualAdapters`] and [`TextAdapters`] are all adapters of an encoder, with the guest that its blocks ask;
//! - [`VisualAdapter`] and [`TextAdapter`] are one each: a bottleneck with [`DenseBranches`], and in a visual adapter a
//!   [`WordUnit`] by which the patches see the words;
//! - [`AdapterFusion`] names the word units: RCA's cost volume, [`WordCrossAttention`], or none.

mod dense;
mod prompt;
mod text;
mod visual;
mod word_unit;

pub use backbone;
pub use rca;
pub use torch_ext;

pub use dense::DenseBranches;
pub use prompt::{Prompted, VISUAL_PROMPTS};
pub use text::{TEXT_ADAPTERS, TextAdapter, TextAdapters, TextAdaptersConfig};
pub use visual::{Gate, VISUAL_ADAPTERS, VisualAdapter, VisualAdapters, VisualAdaptersConfig};
pub use word_unit::{AdapterFusion, WordCrossAttention, WordUnit};

/// The README's example is tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

use torch_ext::flops::{BOTH, Cost, Grad, linear};

/// Epsilon of the batch normalisations in all adapters.
const ADAPTER_NORM_EPS: f64 = 1e-3;

/// Operations of an adapter's way into its bottleneck and back. In the first adapter nothing before the bottleneck has a
/// gradient.
fn ends_cost(rows: i64, width: i64, r: i64, before: Grad) -> Cost {
    linear(rows, width, r, Grad { input: before.input, weight: true }) + linear(rows, r, width, BOTH)
}
