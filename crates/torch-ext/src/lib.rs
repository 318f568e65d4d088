//! Additions to tch 0.24 that this project needs:
//!
//! - [`Store`]: named parameters and buffers of any dtype in registration order, which is the order of the
//!   official state dicts (tch's `VarStore` keeps a hash map and has no integer buffers);
//! - [`layers`]: linear, convolution, normalisation and attention layers that register under PyTorch's names,
//!   with every epsilon and initialisation spelled out;
//! - [`across`]: sums over several processes (all-reduce), and with them SyncBatchNorm;
//! - [`custom_gradient`]: operations with a custom backward pass;
//! - [`Autocast`]: automatic mixed precision with a chosen dtype, on CPU too;
//! - [`generator`]: state of the random number generators (RNG), for resuming;
//! - [`GradientHooks`]: hooks that run as soon as a parameter's gradient is complete;
//! - [`Adam`] with accessible state, and the fused operations below it ([`fused`]);
//! - [`upload`] and [`Download`]: asynchronous copies to and from a device;
//! - [`profile`](mod@profile): operators and kernels from libtorch's profiler; [`Moment`]: times on a device;
//!   [`synchronisations_of`]: how often the host waits for a GPU;
//! - [`CudaGraph`]: capture and replay of a GPU's work;
//! - [`Trace`]: networks as TorchScript modules;
//! - [`flops`]: floating-point operations of layers, counted from their sizes;
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
mod low_rank;
mod lowered;
pub mod profile;
mod remembered;
mod script;
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
pub use low_rank::{LowRankPart, LowRankRule, LowRankUpdate, Rows};
pub use lowered::{Lowered, lowered};
pub use remembered::Remembered;
pub use script::Trace;
pub use shim::ShimError;
pub use store::{Counter, Entry, Group, OptimizerGroup, ParamPath, Role, Store, StoreError, Trains};
pub use transfer::{Download, upload, upload_beside};

/// Runs the README's example as a doctest.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The version of the libtorch in use, for example `2.11.0`.
///
/// # Errors
/// When libtorch reports an error.
pub fn version() -> Result<String, ShimError> {
    shim::version()
}

/// Vector instructions that libtorch's own kernels use on this CPU, and which kernels serve there, for example `AVX512: products in float32 oneDNN, ...`.
///
/// # Errors
/// When libtorch reports an error.
pub fn cpu_kernels() -> Result<String, ShimError> {
    shim::cpu_description()
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

/// Resets the peak of [`peak_device_bytes`] to the bytes allocated now.
///
/// # Errors
/// When CUDA does not answer.
pub fn reset_peak_device_bytes(device: tch::Device) -> Result<(), ShimError> {
    match device {
        tch::Device::Cuda(index) => shim::measure::cuda_reset_peak(index),
        _ => Ok(()),
    }
}

/// Sets whether float32 matrix products and convolutions on a GPU may round their operands to TF32 (10 bits of mantissa).
/// libtorch's default allows it for convolutions only.
///
/// # Errors
/// When libtorch refuses.
pub fn allow_tf32(allowed: bool) -> Result<(), ShimError> {
    shim::measure::allow_tf32(allowed)
}

/// Runs `work` with TF32 allowed for matrix products on a GPU. If not `allowed`, the current setting is kept.
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

/// Number of in-place writes to a tensor so far. If it has changed, values computed from the tensor are out of date.
pub fn write_count(xs: &tch::Tensor) -> u64 {
    shim::measure::write_count(xs)
}

/// Runs `work` while libtorch fills uninitialised memory with NaN, to reveal code that reads it.
///
/// # Errors
/// When libtorch refuses.
pub fn with_poisoned_memory<T>(work: impl FnOnce() -> T) -> Result<T, ShimError> {
    shim::measure::poison_memory(true)?;
    let result = work();
    shim::measure::poison_memory(false)?;
    Ok(result)
}

/// Chooses between this crate's CPU kernels for products, attention and dropout (feature `cpu-kernels`, on by default) and
/// libtorch's own. This crate's are enabled at first. Without the feature this call does nothing.
pub fn set_cpu_kernels(enabled: bool) {
    shim::measure::cpu_kernels(enabled);
}

/// Runs `work` and counts the synchronisations in which the host waited for a GPU, as libtorch reports them
/// (`torch.cuda.set_sync_debug_mode` in PyTorch). Waiting for an event, as [`Download::wait`] does, is not counted.
///
/// # Errors
/// When this libtorch is built without CUDA.
pub fn synchronisations_of<T>(work: impl FnOnce() -> T) -> Result<(T, u64), ShimError> {
    shim::measure::count_synchronisations()?;
    let result = work();
    Ok((result, shim::measure::synchronisations()?))
}
