use serde::{Deserialize, Serialize};

use crate::overlap::Overlap;

/// Metrics of generalised referring segmentation (gRefCOCO), where an expression may have no target or several. All in
/// percent.
///
/// Defined in the benchmark's paper (GRES, arXiv 2306.00968, section 3):
///
/// - gIoU: the mean over expressions of the IoU. For an expression without a target, the IoU is 1 if the predicted mask is
///   empty, otherwise 0;
/// - cIoU: all intersections over all unions; a correct empty mask adds nothing to either;
/// - N-acc: share of the expressions without a target that get an empty mask;
/// - T-acc: share of the expressions with a target that get a mask that is not empty.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GeneralizedMetrics {
    /// Mean IoU over expressions, including those without a target.
    #[serde(rename = "gIoU")]
    pub giou: f64,
    /// Cumulative IoU: all intersections over all unions.
    #[serde(rename = "cIoU")]
    pub ciou: f64,
    /// Accuracy on expressions without a target; `None` if there are none.
    #[serde(rename = "N-acc")]
    pub n_acc: Option<f64>,
    /// Accuracy on expressions with a target of predicting that there is one; `None` if no expression has one.
    #[serde(rename = "T-acc")]
    pub t_acc: Option<f64>,
    /// Number of expressions without a target.
    pub n_without_target: usize,
}

impl GeneralizedMetrics {
    /// Computes the metrics of these overlaps. A prediction of fewer than `min_pixels` pixels means "no target" and counts as
    /// empty. The benchmark uses 50 for models that cannot predict "no target" in another way.
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
            overlap(0, 0, 0),     // correct empty mask: 1
            overlap(0, 9, 0),     // too small to count, so a correct empty mask: 1
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
