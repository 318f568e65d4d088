//! Metrics of referring image segmentation, in plain Rust.
//!
//! Two different numbers are called "IoU" in the literature. They are never mixed here:
//!
//! - **mIoU**: the mean over expressions of each expression's IoU. TALENT's paper and code report it.
//! - **oIoU** (overall or cumulative IoU): all intersections over all unions. Large objects dominate it.
//!
//! gRefCOCO, where an expression may have no target, calls its own variants gIoU and cIoU: [`GeneralizedMetrics`].
//!
//! [`nta`] measures how much a prediction covers objects that were not referred to. [`SplitReport`] holds all metrics, and
//! [`METRICS`] lists them for tables and plots.
//!
//! ```
//! use metrics::{Overlap, SegmentationMetrics};
//!
//! let overlaps = [
//!     Overlap { intersection: 50, prediction: 50, target: 100 },
//!     Overlap { intersection: 900, prediction: 900, target: 900 },
//! ];
//! let metrics = SegmentationMetrics::from_overlaps(&overlaps);
//! assert!((metrics.miou - 75.0).abs() < 1e-5);
//! assert!((metrics.oiou - 95.0).abs() < 1e-5);
//! ```

mod boxes;
mod generalized;
mod list;
mod metric;
pub mod nta;
mod overlap;
mod report;
mod segmentation;

pub use boxes::BoxMetrics;
pub use generalized::GeneralizedMetrics;
pub use list::METRICS;
pub use metric::Metric;
pub use nta::{Activation, NtaMetrics, response_nta};
pub use overlap::Overlap;
pub use report::{Evaluated, GroupReport, MIN_TARGET_PIXELS, SplitReport, has_position_word};
pub use segmentation::{PRECISION_THRESHOLDS, SegmentationMetrics};

/// The README's example is tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
