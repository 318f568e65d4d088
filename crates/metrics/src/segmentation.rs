use serde::{Deserialize, Serialize};

use crate::metric::Metric;
use crate::overlap::Overlap;
use crate::report::GroupReport;

/// IoU thresholds of Pr@50 to Pr@90. They are float32 numbers in the official evaluation, so 0.6 and 0.8 lie a little above the
/// decimal number and 0.7 and 0.9 a little below.
pub const PRECISION_THRESHOLDS: [f32; 5] = [0.5, 0.6, 0.7, 0.8, 0.9];

pub(crate) const MIOU: Metric = Metric {
    key: "mIoU",
    heading: "mIoU",
    more_is_better: true,
    in_summaries: true,
    while_training: true,
    of: |report| defined(report, report.segmentation.miou),
};

pub(crate) const OIOU: Metric =
    Metric { key: "oIoU", heading: "oIoU", of: |report| defined(report, report.segmentation.oiou), ..MIOU };

pub(crate) const PR50: Metric =
    Metric { key: "Pr@50", heading: "Pr@50", of: |report| defined(report, report.segmentation.pr50), ..MIOU };

pub(crate) const PR60: Metric = Metric {
    key: "Pr@60",
    heading: "Pr@60",
    in_summaries: false,
    while_training: false,
    of: |report| defined(report, report.segmentation.pr60),
    ..MIOU
};

pub(crate) const PR70: Metric =
    Metric { key: "Pr@70", heading: "Pr@70", of: |report| defined(report, report.segmentation.pr70), ..PR60 };

pub(crate) const PR80: Metric =
    Metric { key: "Pr@80", heading: "Pr@80", of: |report| defined(report, report.segmentation.pr80), ..PR60 };

pub(crate) const PR90: Metric =
    Metric { key: "Pr@90", heading: "Pr@90", of: |report| defined(report, report.segmentation.pr90), ..PR60 };

/// A metric's value; `None` over no expressions.
fn defined(report: &GroupReport, value: f64) -> Option<f64> {
    (report.segmentation.n_expressions > 0).then_some(value)
}

/// Metrics over a set of expressions, all in percent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SegmentationMetrics {
    /// Mean IoU over expressions.
    #[serde(rename = "mIoU")]
    pub miou: f64,
    /// Overall IoU: all intersections over all unions.
    #[serde(rename = "oIoU")]
    pub oiou: f64,
    /// Share of expressions with IoU above 0.5.
    #[serde(rename = "Pr@50")]
    pub pr50: f64,
    /// Share of expressions with IoU above 0.6.
    #[serde(rename = "Pr@60")]
    pub pr60: f64,
    /// Share of expressions with IoU above 0.7.
    #[serde(rename = "Pr@70")]
    pub pr70: f64,
    /// Share of expressions with IoU above 0.8.
    #[serde(rename = "Pr@80")]
    pub pr80: f64,
    /// Share of expressions with IoU above 0.9.
    #[serde(rename = "Pr@90")]
    pub pr90: f64,
    /// Number of expressions.
    pub n_expressions: usize,
}

impl SegmentationMetrics {
    /// Computes the metrics of these overlaps; all 0 if there are none.
    pub fn from_overlaps(overlaps: &[Overlap]) -> Self {
        let n = overlaps.len().max(1) as f64;
        let ious: Vec<f64> = overlaps.iter().map(Overlap::iou).collect();
        let above = |threshold: f32| {
            let hits = ious.iter().filter(|iou| **iou > f64::from(threshold)).count();
            100.0 * hits as f64 / n
        };
        let intersection: u64 = overlaps.iter().map(|overlap| overlap.intersection).sum();
        let union: u64 = overlaps.iter().map(Overlap::union).sum();
        let [pr50, pr60, pr70, pr80, pr90] = PRECISION_THRESHOLDS.map(above);
        Self {
            // A sum of nothing is -0.0.
            miou: 100.0 * ious.iter().sum::<f64>() / n + 0.0,
            oiou: if union == 0 { 0.0 } else { 100.0 * intersection as f64 / union as f64 },
            pr50,
            pr60,
            pr70,
            pr80,
            pr90,
            n_expressions: overlaps.len(),
        }
    }

    /// Pr@50 to Pr@90.
    pub fn precisions(&self) -> [f64; 5] {
        [self.pr50, self.pr60, self.pr70, self.pr80, self.pr90]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_strict_and_in_float32() {
        let overlap = |intersection, target| Overlap { intersection, prediction: intersection, target };
        // An IoU of exactly 0.5 or 0.6 never counts; 0.7 does where the 1e-6 of the IoU no longer matters.
        let metrics = SegmentationMetrics::from_overlaps(&[overlap(500_000, 1_000_000)]);
        assert_eq!(metrics.pr50, 0.0);
        let metrics = SegmentationMetrics::from_overlaps(&[overlap(700_000, 1_000_000), overlap(7, 10)]);
        assert_eq!((metrics.pr60, metrics.pr70), (100.0, 50.0));
    }

    #[test]
    fn no_expressions_give_zeros() {
        let metrics = SegmentationMetrics::from_overlaps(&[]);
        assert_eq!((metrics.miou, metrics.oiou, metrics.n_expressions), (0.0, 0.0, 0));
    }

    #[test]
    fn names_are_the_usual_ones() {
        let json = serde_json::to_string(&SegmentationMetrics::from_overlaps(&[])).unwrap();
        for name in ["mIoU", "oIoU", "Pr@50", "Pr@90", "n_expressions"] {
            assert!(json.contains(&format!("\"{name}\"")), "{json}");
        }
    }
}
