//! What tch 0.24 lacks and this project needs, and nothing else:
//!
//! - [`Store`]: named parameters and buffers of any dtype in registration order, which is the order of the
//!   official state dictionaries (tch's `VarStore` keeps a hash map and knows no integer buffers);
//! - [`layers`]: linear, convolution, normalisation and attention layers that register under PyTorch's names,
//!   with every epsilon and initialisation spelled out;
//! - [`across`]: statistics over the samples of several processes (SyncBatchNorm);
//! - [`custom_gradient`]: values with gradients of one's own;
//! - [`Autocast`]: automatic mixed precision with a chosen dtype, on CPU too;
//! - [`generator`]: state of the random generators, for resuming;
//! - [`GradientHooks`]: what is done as soon as a parameter's gradient is there;
//! - [`Adam`] with its state in the open, and the fused operations below it ([`fused`]);
//! - [`upload`] and [`Download`]: copies to and from a device that nobody waits for;
//! - [`profile`](profile()): operators and kernels as libtorch's profiler sees them; [`Moment`]: times on a device;
//!   [`synchronisations_of`]: how often the host waits for a GPU;
//! - [`CudaGraph`]: a GPU's work, recorded and repeated;
//! - [`flops`]: operations of layers, counted from their sizes;
//! - [`version`], [`peak_device_bytes`], [`allow_tf32`].

pub mod across;
mod adam;
mod autocast;
mod cuda_graph;
mod custom_gradient;
mod device_clock;
pub mod flops;
pub mod fused;
pub mod generator;
mod gradient_hooks;
mod init;
pub mod layers;
mod lowered;
pub mod profile;
mod remembered;
mod shim;
mod store;
mod transfer;

pub use adam::{Adam, AdamConfig, AdamGroup, AdamStateError};
pub use autocast::Autocast;
pub use cuda_graph::{CudaGraph, graphs_library, library_for_gpus};
pub use custom_gradient::custom_gradient;
pub use device_clock::Moment;
pub use gradient_hooks::GradientHooks;
pub use init::Init;
pub use lowered::{Lowered, lowered};
pub use remembered::Remembered;
pub use shim::ShimError;
pub use store::{Counter, Entry, Group, OptimizerGroup, ParamPath, Role, Store, StoreError, Trains};
pub use transfer::{Download, upload, upload_beside};

/// libtorch's random generator is one for all threads: a test that repeats what it draws holds this meanwhile.
#[cfg(test)]
static DRAWING: std::sync::Mutex<()> = std::sync::Mutex::new(());

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

/// Begins to measure the peak of [`peak_device_bytes`] anew, from what is allocated now.
///
/// # Errors
/// When CUDA does not answer.
pub fn reset_peak_device_bytes(device: tch::Device) -> Result<(), ShimError> {
    match device {
        tch::Device::Cuda(index) => shim::measure::cuda_reset_peak(index),
        _ => Ok(()),
    }
}

/// Whether float32 products and convolutions on a GPU may round their operands to TF32 (10 bits of mantissa). libtorch
/// allows it for convolutions unless told otherwise.
///
/// # Errors
/// When libtorch refuses.
pub fn allow_tf32(allowed: bool) -> Result<(), ShimError> {
    shim::measure::allow_tf32(allowed)
}

/// Runs `work` with TF32 allowed for matrix products on a GPU, or as it is set otherwise.
///
/// # Errors
/// When libtorch refuses.
pub fn with_tf32_products<T>(allowed: bool, work: impl FnOnce() -> T) -> Result<T, ShimError> {
    if !allowed {
        return Ok(work());
    }
    let before = shim::measure::tf32_products(true)?;
    let result = work();
    shim::measure::tf32_products(before)?;
    Ok(result)
}

/// How often a tensor has been written to in place: a value made from it is out of date when this has changed.
pub fn write_count(xs: &tch::Tensor) -> u64 {
    shim::measure::write_count(xs)
}

/// Runs `work` while libtorch fills memory that it hands out uninitialised with NaN: what reads such memory shows.
///
/// # Errors
/// When libtorch refuses.
pub fn with_poisoned_memory<T>(work: impl FnOnce() -> T) -> Result<T, ShimError> {
    shim::measure::poison_memory(true)?;
    let result = work();
    shim::measure::poison_memory(false)?;
    Ok(result)
}

/// Whether tensors on the CPU are served by this crate's products, attention and dropout, as they are by default, or by
/// libtorch's own.
pub fn set_cpu_kernels(enabled: bool) {
    shim::measure::cpu_kernels(enabled);
}

/// Runs `work`, and returns how often it made the host wait for a GPU, by libtorch's own account
/// (`torch.cuda.set_sync_debug_mode` in PyTorch). Waiting for an event, as [`Download::wait`] does, does not count.
///
/// # Errors
/// When this libtorch has no CUDA half.
pub fn synchronisations_of<T>(work: impl FnOnce() -> T) -> Result<(T, u64), ShimError> {
    shim::measure::count_synchronisations()?;
    let result = work();
    Ok((result, shim::measure::synchronisations()?))
}
