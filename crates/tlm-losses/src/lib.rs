//! The losses of TALENT, of tensors. Each is made the same way: a config with the published values as its default
//! ([`CpclConfig`]), the loss ([`Cpcl::new`]), and a value with named parts ([`CpclLoss`]).
//!
//! - [`Segmentation`]: binary cross entropy plus soft IoU;
//! - [`Cpcl`]: contextual pairwise consistency learning;
//! - [`Tccl`]: target-centric contrastive learning.
//!
//! CPCL and TCCL together are the paper's Target-aware Learning Mechanism (TLM). All are computed in float32 or
//! float64, also under autocast, because the consistency loss's affinities overflow in float16 (quirk Q16).

mod affinity;
mod cpcl;
mod partners;
mod segmentation;
mod tccl;

pub use cpcl::{Cpcl, CpclConfig, CpclLoss};
pub use segmentation::{Segmentation, SegmentationConfig, SegmentationLoss};
pub use tccl::{Tccl, TcclConfig, TcclLoss};

use tch::{Device, Kind, Tensor};
use torch_ext::Autocast;

/// Norms below this count as this.
const SMALLEST_NORM: f64 = 1e-12;

/// Unit vectors along an axis, the norm clamped at [`SMALLEST_NORM`].
fn unit(xs: &Tensor, axis: i64) -> Tensor {
    xs / xs.norm_scalaropt_dim(2.0, [axis].as_slice(), true).clamp_min(SMALLEST_NORM)
}

/// Keeps matrix products in the precision of their inputs while the result lives.
fn full_precision(device: Device) -> Option<Autocast> {
    // It fails only on devices without autocast, where there is nothing to switch off.
    Autocast::enable(device, Kind::Float).ok()
}

/// At least float32.
fn wide(xs: &Tensor) -> Tensor {
    if xs.kind() == Kind::Double { xs.shallow_clone() } else { xs.to_kind(Kind::Float) }
}
