//! The Rectified Cost Aggregator (RCA) of TALENT and the units it is compared with.
//!
//! - [`WordCostVolume`] compares patches with words inside a visual adapter;
//! - [`SentenceCostVolume`] compares patches with the sentence in the neck; [`NeckFusion`] names the alternatives;
//! - [`Neck`] fuses three levels of image features with the sentence and aggregates them, with [`CoordConv`] at its end.
//!
//! Every unit takes tensors and returns tensors; nothing here depends on the encoders.

mod conv_block;
mod coord_conv;
mod neck;
mod sentence_unit;
mod word_cost_volume;

pub use torch_ext;

pub use conv_block::ConvBlock;
pub use coord_conv::CoordConv;
pub use neck::{Neck, NeckConfig, NeckOutput};
pub use sentence_unit::{NECK_ATTENTION_HEADS, NeckFusion, SentenceCostVolume, SentenceUnit};
pub use word_cost_volume::{WordCostVolume, WordUnitConfig};

/// The README's example is tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
