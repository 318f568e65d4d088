//! Binding of `c10d`, PyTorch's library for distributed processes, for users of tch: the key-value store for the rendezvous,
//! and the process groups Gloo (feature `gloo`, on by default; tensors on the CPU) and NCCL (feature `nccl`; tensors on GPUs; a
//! shared library that is loaded on demand, see [`nccl_library`]).
//!
//! Any launcher that sets rank and world size works, see [`Rendezvous::from_environment`]:
//!
//! ```no_run
//! use c10d::{Group, Reduce, Rendezvous};
//! use tch::{Device, Tensor};
//!
//! if let Some(meeting) = Rendezvous::from_environment()? {
//!     let group = Group::join(meeting, Device::Cpu, &Default::default())?;
//!     let mut xs = Tensor::from_slice(&[group.rank() as f32]);
//!     if group.all_reduce(&mut xs, Reduce::Sum).is_err() {
//!         return Err(group.blame()); // "rank 3 shows no sign of life"
//!     }
//! }
//! # Ok::<(), c10d::Error>(())
//! ```
//!
//! [`torch_ext::across`] has a differentiable all-reduce, and `torch_ext`'s batch normalisation can use a group
//! (SyncBatchNorm).

mod error;
mod group;
mod rendezvous;
mod shim;
mod watch;

pub use torch_ext;

pub use error::Error;
pub use group::{Group, PendingReduce, Reduce, nccl_library, reduce_scalar};
pub use rendezvous::{DEFAULT_TIMEOUT, Rendezvous, TIMEOUT_VARIABLE};

/// Runs the README's example as a doctest.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
