//! The losses of TALENT, computed from tensors. All have the same structure: settings whose defaults are the published values
//! (for example [`CpclConfig`]), the loss ([`Cpcl::new`]), and a result with named parts ([`CpclLoss`]).
//!
//! - [`Segmentation`]: binary cross entropy plus soft IoU;
//! - [`Cpcl`]: contextual pairwise consistency learning;
//! - [`Tccl`]: target-centric contrastive learning.
//!
//! CPCL and TCCL together are the paper's Target-aware Learning Mechanism (TLM). More losses against non-target activation are
//! this project's own; all but the first need the masks of the target's category or several expressions of an image:
//!
//! - [`PixelContrast`]: of all positions, those of the target must answer most;
//! - [`InstanceContrast`]: of the objects of the category, the target must answer most;
//! - [`DistractorMass`]: the metric NTA mass, made differentiable;
//! - [`ObjectEntropy`]: cross entropy on the objects of the category, each of which counts alike;
//! - [`Exclusivity`]: two expressions about different objects must not share pixels.
//!
//! All are computed in float32 or
//! float64, also under autocast, because the consistency loss's affinities overflow in float16 (quirk Q16).

mod affinity;
mod cpcl;
mod distractor_mass;
mod exclusivity;
mod instance_contrast;
mod object_entropy;
mod objects;
mod partners;
mod pixel_contrast;
mod segmentation;
mod tccl;

pub use cpcl::{Cpcl, CpclConfig, CpclLoss};
pub use distractor_mass::{DistractorMass, DistractorMassConfig};
pub use exclusivity::{Exclusivity, ExclusivityConfig};
pub use instance_contrast::{InstanceContrast, InstanceContrastConfig};
pub use object_entropy::{ObjectEntropy, ObjectEntropyConfig};
pub use objects::ObjectMaps;
pub use pixel_contrast::{PixelContrast, PixelContrastConfig};
pub use segmentation::{Segmentation, SegmentationConfig, SegmentationLoss};
pub use tccl::{Tccl, TcclConfig, TcclLoss};

/// The README's example is tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

use tch::{Device, Kind, Tensor};
use torch_ext::Autocast;
use torch_ext::across::{Processes, total};

/// Norms are clamped to at least this value.
const SMALLEST_NORM: f64 = 1e-12;

/// Unit vectors along an axis, the norm clamped at [`SMALLEST_NORM`].
fn unit(xs: &Tensor, axis: i64) -> Tensor {
    xs / xs.norm_scalaropt_dim(2.0, [axis].as_slice(), true).clamp_min(SMALLEST_NORM)
}

/// Turns autocast off until the result is dropped: matrix products keep the dtype of their inputs.
fn full_precision(device: Device) -> Option<Autocast> {
    // It fails only on devices without autocast, where there is nothing to switch off.
    Autocast::enable(device, Kind::Float).ok()
}

/// Sum over the samples that count, and their number, at least 1. Their quotient is the mean.
///
/// Losses are averaged over the ranks. The divisor must count the samples of all ranks (all-reduce), hence the sum has the factor
/// world size.
///
/// - per_sample: `[batch]`; counts: `[batch]`, 1 or 0
/// - processes: the ranks that share the batch, if there are several
fn sum_and_number(
    per_sample: &Tensor,
    counts: &Tensor,
    processes: Option<&dyn Processes>,
) -> (Tensor, Tensor) {
    let counts = counts.to_kind(per_sample.kind());
    let (n, n_processes) = total(&counts.sum(None::<Kind>), processes);
    ((per_sample * counts).sum(None::<Kind>) * n_processes as f64, n.clamp_min(1.0))
}

/// Converts to float32; float64 stays float64.
fn wide(xs: &Tensor) -> Tensor {
    if xs.kind() == Kind::Double { xs.shallow_clone() } else { xs.to_kind(Kind::Float) }
}
