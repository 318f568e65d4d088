//! Frozen encoders for referring image segmentation, each a value: an [`ImageEncoder`] or a [`TextEncoder`] with an
//! [`EncoderSpec`] that says what is true of it alone.
//!
//! - [`IMAGE_ENCODERS`] and [`TEXT_ENCODERS`] list what there is; adding one takes its file and a line there;
//! - [`guest`] is the hook by which adapters and the like add to what a block computes;
//! - parameters have the official names below [`EncoderSpec::prefix`].

mod clip_names;
mod clip_text;
mod cost;
mod dinov2;
mod dinov2_names;
mod dinov3;
pub mod guest;
mod image;
mod patches;
mod positions;
mod projection;
mod registry;
mod residual;
mod rotary;
mod siglip_text;
mod spec;
mod text;
mod variant;

pub use torch_ext;
pub use weight_files;

pub use clip_text::ClipText;
pub use dinov2::{Dinov2, Dinov2Registers};
pub use dinov3::Dinov3;
pub use image::{Features, Grid, ImageEncoder, ImageEncoderConfig, ImageFamily, rows_of};
pub use positions::{PositionRule, resample_positions};
pub use projection::{Projection, ProjectionRole, Projections};
pub use registry::{Design, IMAGE_ENCODERS, ImageDesign, Registered, TEXT_ENCODERS, TextDesign};
pub use siglip_text::{SIGLIP, SIGLIP2, SiglipText};
pub use spec::{EncoderSpec, IMAGE_ENCODER, PixelInput, SentenceAt, TEXT_ENCODER, Tokenizer, WordInput};
pub use text::{TextEncoder, TextEncoderConfig, TextFamily, TextOutput};
pub use variant::{Activation, Variant};

/// The README's example is tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// A value on its way through an encoder, for looking inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Patch embedding before special tokens and positions, `[n, patches, D]`.
    Patches,
    /// Tokens that enter the first block: `[n, special + patches, D]` of an image, `[n, K, T]` of a sentence.
    Tokens,
    /// Output of a block (from 0), all tokens.
    Block(usize),
}

/// For passes that nobody looks into.
pub fn unobserved(_: Stage, _: &tch::Tensor) {}
