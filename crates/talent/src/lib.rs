//! The TALENT network: encoders with adapters, neck, decoder and projector.
//!
//! [`ModelConfig`] holds the sizes and variants, with the presets `tiny`, `base` and `large`. [`Talent`] is the network.
//! [`TalentOutput`] holds everything that the losses need. [`weights`] loads pretrained encoders and checkpoints. Losses are
//! not part of this crate.

mod config;
mod decoder;
mod flops;
mod memory;
mod model;
mod pass;
mod projector;
mod recompute;
mod tuning;
pub mod weights;

pub use adapters::{AdapterFusion, Gate};
pub use backbone::{
    EncoderSpec, IMAGE_ENCODER, PixelInput, PositionRule, TEXT_ENCODER, Tokenizer, WordInput,
};
pub use config::{ConfigError, DecoderConfig, HeadConfig, ImageConfig, ModelConfig, TextConfig};
pub use decoder::{Decoder, DecoderLayer};
pub use flops::{Flops, forward_flops, train_flops};
pub use memory::{LeastActivations, LeastParameters, least_activations, least_decoder, least_parameters};
pub use model::{Talent, TalentOutput, TrainedParts, probabilities};
pub use pass::{Pass, Sentences, Stage, Triplet};
pub use projector::Projector;
pub use rca::NeckFusion;
pub use torch_ext::layers::Mode;
pub use tuning::{LORA, LoraConfig, PromptConfig, Tuning};
