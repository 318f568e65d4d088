//! Accuracy of boxes (referring expression comprehension, REC), derived from masks: a model that predicts masks has no boxes of its
//! own, so the boxes around predicted and true masks are compared.

use serde::{Deserialize, Serialize};

use crate::metric::Metric;

pub(crate) const REC: Metric = Metric {
    key: "rec_acc50_from_masks",
    heading: "REC Acc@50 (masks)",
    more_is_better: true,
    in_summaries: true,
    while_training: false,
    of: |report| report.boxes.rec_acc50_from_masks,
};

/// Accuracy of the boxes around masks, in percent.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct BoxMetrics {
    /// Share of the expressions whose predicted mask has a box with an IoU of at least 0.5 with the box of the target's mask.
    /// `None` if no expression has a target, or if the boxes were not measured.
    pub rec_acc50_from_masks: Option<f64>,
}

impl BoxMetrics {
    /// The metrics of these box IoUs, those of expressions with a target.
    pub fn from_ious(ious: impl IntoIterator<Item = f64>) -> Self {
        let ious: Vec<f64> = ious.into_iter().collect();
        let hits = ious.iter().filter(|&&iou| iou >= 0.5).count();
        let share = 100.0 * hits as f64 / ious.len().max(1) as f64;
        Self { rec_acc50_from_masks: (!ious.is_empty()).then_some(share) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let found = BoxMetrics::from_ious([0.5, 0.49, 1.0, 0.0]);
        assert_eq!(found.rec_acc50_from_masks, Some(50.0));
        assert_eq!(BoxMetrics::from_ious([]), BoxMetrics::default());
    }
}
