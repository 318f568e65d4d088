//! The TALENT network: encoders with adapters, neck, decoder and projector.
//!
//! [`ModelConfig`] names the sizes and variants, with the presets `tiny`, `base` and `large`; [`Talent`] is the
//! network; [`TalentOutput`] carries everything the losses need; [`weights`] fills it from the files people have.
//! Losses are not part of this crate.

mod config;
mod decoder;
mod flops;
mod memory;
mod model;
mod projector;
mod recompute;
pub mod weights;

pub use backbone::{Gate, PositionRule, Stage};
pub use config::{ConfigError, DecoderConfig, HeadConfig, ModelConfig};
pub use decoder::{Decoder, DecoderLayer};
pub use flops::{Flops, forward_flops, train_flops};
pub use memory::{LeastActivations, LeastParameters, least_activations, least_decoder, least_parameters};
pub use model::{
    ParameterGroup, Talent, TalentOutput, TrainedParts, Triplet, parameter_group, probabilities,
};
pub use projector::Projector;
pub use rca::{AdapterFusion, NeckFusion};
pub use torch_ext::layers::Mode;
