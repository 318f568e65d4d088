use serde::{Deserialize, Serialize};

use crate::overlap::Overlap;

/// Metrics of generalised referring segmentation (gRefCOCO), where an expression may have no target or several. All in
/// percent.
///
/// As the benchmark's paper (GRES, arXiv 2306.00968, section 3) defines them:
///
/// - gIoU: the mean over expressions of the IoU, which is 1 for an expression without target that is answered with an
///   empty mask, and 0 for one that is not;
/// - cIoU: all intersections over all unions; a rightly empty answer adds nothing to either;
/// - N-acc: of the expressions without target, the share that gets an empty mask;
/// - T-acc: of the expressions with a target, the share that does not.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GeneralizedMetrics {
    /// Mean IoU, expressions without target included.
    #[serde(rename = "gIoU")]
    pub giou: f64,
    /// Cumulative IoU.
    #[serde(rename = "cIoU")]
    pub ciou: f64,
    /// Accuracy on expressions without target; none if there are none.
    #[serde(rename = "N-acc")]
    pub n_acc: Option<f64>,
    /// Accuracy of telling that there is a target; none if no expression has one.
    #[serde(rename = "T-acc")]
    pub t_acc: Option<f64>,
    /// Expressions without target.
    pub n_without_target: usize,
}

impl GeneralizedMetrics {
    /// The metrics of these overlaps. A prediction of fewer than `min_pixels` pixels stands for "no target" and counts
    /// as empty; the benchmark uses 50 for models that have no other way of saying so.
    pub fn from_overlaps(overlaps: &[Overlap], min_pixels: u64) -> Self {
        let answered: Vec<Overlap> = overlaps
            .iter()
            .map(|&overlap| match overlap.prediction < min_pixels {
                true => Overlap { intersection: 0, prediction: 0, ..overlap },
                false => overlap,
            })
            .collect();
        let iou = |overlap: &Overlap| match overlap.union() {
            0 => 1.0,
            union => overlap.intersection as f64 / union as f64,
        };
        let share = |hits: usize, n: usize| (n > 0).then(|| 100.0 * hits as f64 / n as f64);
        let empty = |overlap: &&Overlap| overlap.prediction == 0;
        let (without, with): (Vec<&Overlap>, Vec<&Overlap>) =
            answered.iter().partition(|overlap| overlap.target == 0);
        let n_empty = |some: &[&Overlap]| some.iter().copied().filter(empty).count();
        let intersection: u64 = answered.iter().map(|overlap| overlap.intersection).sum();
        let union: u64 = answered.iter().map(Overlap::union).sum();
        Self {
            giou: 100.0 * answered.iter().map(iou).sum::<f64>() / answered.len().max(1) as f64,
            ciou: if union == 0 { 0.0 } else { 100.0 * intersection as f64 / union as f64 },
            n_acc: share(n_empty(&without), without.len()),
            t_acc: share(with.len() - n_empty(&with), with.len()),
            n_without_target: without.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let overlap = |intersection, prediction, target| Overlap { intersection, prediction, target };
        let overlaps = [
            overlap(50, 100, 50), // 0.5
            overlap(9, 9, 100),   // too small to count: IoU 0 of 100 pixels
            overlap(0, 0, 0),     // rightly empty: 1
            overlap(0, 9, 0),     // too small to count, so rightly empty: 1
            overlap(0, 100, 0),   // 0
        ];
        let metrics = GeneralizedMetrics::from_overlaps(&overlaps, 10);
        assert_eq!(metrics.giou, 50.0);
        assert!((metrics.ciou - 100.0 * 50.0 / 300.0).abs() < 1e-9);
        assert!((metrics.n_acc.unwrap() - 200.0 / 3.0).abs() < 1e-9);
        assert_eq!((metrics.t_acc, metrics.n_without_target), (Some(50.0), 3));
    }

    #[test]
    fn what_does_not_occur_has_no_accuracy() {
        let metrics = GeneralizedMetrics::from_overlaps(&[], 50);
        assert_eq!((metrics.giou, metrics.ciou, metrics.n_acc, metrics.t_acc), (0.0, 0.0, None, None));
        let json = serde_json::to_value(metrics).unwrap();
        for name in ["gIoU", "cIoU", "N-acc", "T-acc"] {
            assert!(json.get(name).is_some(), "{json}");
        }
    }
}
