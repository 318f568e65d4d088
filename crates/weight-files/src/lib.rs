//! Weight files as people have them on disk, opened without running anything in them:
//!
//! - PyTorch's zip containers (`.pth`, `.pt`, `pytorch_model.bin`), plain or nested dictionaries;
//! - TorchScript archives, of which only the tensors are read;
//! - safetensors, one file or sharded with an index, and folders as Hugging Face downloads give them.
//!
//! [`WeightFile`] lists the tensors in file order and reads them one at a time, so memory stays at one tensor
//! above what the caller keeps. Pickled objects other than tensors and their containers are refused by name.
//! [`encoder_plan`] says which tensors of a DINOv2 or CLIP file are which of the official ones, whichever of
//! the naming schemes the file uses.

mod encoder;
mod error;
mod file;
mod huggingface;
mod safetensors_source;
mod tensor;
mod torch_source;

pub use encoder::{Encoder, EncoderPlan, Part, Step, encoder_plan};
pub use error::Error;
pub use file::WeightFile;
pub use huggingface::EncoderFacts;
pub use tensor::{Element, Scalar, TensorInfo};
