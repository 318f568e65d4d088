//! Metrics of referring image segmentation, in plain Rust.
//!
//! Two different numbers are called "IoU" in the literature. They are never mixed here:
//!
//! - **mIoU**: the mean over expressions of each expression's IoU. What TALENT's paper and code report.
//! - **oIoU** (overall or cumulative IoU): all intersections over all unions. Large objects dominate it.
//!
//! ```
//! use metrics::{Overlap, SegmentationMetrics};
//!
//! let overlaps = [Overlap { intersection: 50, union: 100 }, Overlap { intersection: 900, union: 900 }];
//! let metrics = SegmentationMetrics::from_overlaps(&overlaps);
//! assert!((metrics.miou - 75.0).abs() < 1e-5);
//! assert!((metrics.oiou - 95.0).abs() < 1e-5);
//! ```

mod overlap;
mod segmentation;

pub use overlap::Overlap;
pub use segmentation::{PRECISION_THRESHOLDS, SegmentationMetrics};
