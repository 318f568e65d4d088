//! What tch 0.24 lacks and this project needs, and nothing else:
//!
//! - [`Store`]: named parameters and buffers of any dtype in registration order, which is the order of the
//!   official state dictionaries (tch's `VarStore` keeps a hash map and knows no integer buffers);
//! - [`layers`]: linear, convolution, normalisation and attention layers that register under PyTorch's names,
//!   with every epsilon and initialisation spelled out;
//! - [`across`]: statistics over the samples of several processes;
//! - [`custom_gradient`]: values with gradients of one's own;
//! - [`Autocast`]: automatic mixed precision with a chosen dtype, on CPU too;
//! - [`generator`]: state of the random generators, for resuming;
//! - [`Adam`] with its state in the open, and the fused operations below it ([`fused`]);
//! - [`upload`] and [`Download`]: copies to and from a device that nobody waits for;
//! - [`version`] and [`peak_device_bytes`].

pub mod across;
mod adam;
mod autocast;
mod custom_gradient;
pub mod fused;
pub mod generator;
mod init;
pub mod layers;
mod shim;
mod store;
mod transfer;

pub use adam::{Adam, AdamConfig, AdamGroup, AdamStateError};
pub use autocast::Autocast;
pub use custom_gradient::custom_gradient;
pub use init::Init;
pub use shim::ShimError;
pub use store::{Entry, Path, Role, Store, StoreError};
pub use transfer::{Download, upload};

/// The version of the libtorch in use, for example `2.11.0`.
///
/// # Errors
/// When the library does not answer.
pub fn version() -> Result<String, ShimError> {
    shim::version()
}

/// Peak bytes allocated on a CUDA device so far; 0 on CPU.
///
/// # Errors
/// When CUDA does not answer.
pub fn peak_device_bytes(device: tch::Device) -> Result<u64, ShimError> {
    match device {
        tch::Device::Cuda(index) => shim::cuda_peak_bytes(index),
        _ => Ok(0),
    }
}
