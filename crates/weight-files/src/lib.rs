//! Weight files as people have them on disk, opened without running anything in them:
//!
//! - PyTorch's zip containers (`.pth`, `.pt`, `pytorch_model.bin`), plain or nested dictionaries;
//! - TorchScript archives, of which only the tensors are read;
//! - safetensors, one file or sharded with an index, and folders as Hugging Face downloads give them.
//!
//! [`WeightFile`] lists the tensors in file order and reads them one at a time, so memory stays at one tensor
//! above what the caller keeps. Pickled objects other than tensors and their containers are refused by name.
//! [`encoder_plan`] says which tensors of a file are which of an encoder's, whichever of the naming schemes ([`Layout`]) the
//! file uses that the encoder is published in.

mod error;
mod file;
mod layout;
mod safetensors_source;
mod settings;
mod tensor;
mod torch_source;

pub use error::Error;
pub use file::WeightFile;
pub use layout::{
    EncoderFacts, EncoderPlan, Layout, Part, Step, as_named, encoder_plan, no_facts, nothing_beside, numbered,
};
pub use settings::Settings;
pub use tensor::{Element, Scalar, TensorInfo};
