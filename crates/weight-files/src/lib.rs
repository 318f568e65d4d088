//! Reads weight files in their usual formats, without executing anything in them:
//!
//! - PyTorch's zip containers (`.pth`, `.pt`, `pytorch_model.bin`), plain or nested dictionaries;
//! - TorchScript archives (tensors only);
//! - safetensors, one file or sharded with an index, and folders as downloaded from Hugging Face.
//!
//! [`WeightFile`] lists the tensors in file order and reads them one at a time, so it adds at most one tensor to the memory
//! that the caller uses. Pickled objects other than tensors and their containers are refused by name. [`encoder_plan`] detects
//! the naming scheme ([`Layout`]) of an encoder's weights and maps the tensors of the file to the encoder's parameters.

mod error;
mod file;
mod layout;
mod peft;
mod safetensors_source;
mod settings;
mod tensor;
mod torch_source;
mod wrapping;

pub use error::Error;
pub use file::WeightFile;
pub use layout::{EncoderPlan, Layout, Part, Step, as_named, encoder_plan, nothing_beside, numbered};
pub use peft::{CONFIG_FILE as PEFT_CONFIG_FILE, Matcher, PeftConfig, Targets, WEIGHT_FILES, lora_scale};
pub use settings::Settings;
pub use tensor::{Element, Scalar, TensorInfo};
pub use wrapping::{family, wrapping};

/// The README's example is tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
