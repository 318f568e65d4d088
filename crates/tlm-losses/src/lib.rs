//! The losses of TALENT, as functions of tensors:
//!
//! - [`segmentation_loss`]: binary cross entropy plus soft IoU;
//! - [`consistency_loss`]: contextual pairwise consistency learning (CPCL), one level;
//! - [`contrastive_loss`]: target-centric contrastive learning (TCCL).
//!
//! CPCL and TCCL together are the paper's Target-aware Learning Mechanism (TLM). All are computed in float32 or
//! float64, also under autocast, because the consistency loss's affinities overflow in float16 (quirk Q16).

mod affinity;
mod consistency;
mod contrastive;
mod partners;
mod segmentation;

pub use consistency::{AFFINITY_THRESHOLD, Consistency, ConsistencyLoss, consistency_loss};
pub use contrastive::{TCCL_DIVISOR, contrastive_loss};
pub use segmentation::{SegmentationLoss, segmentation_loss};

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
