use tch::{Reduction, Tensor};

use crate::wide;

/// Keeps the IoU of two empty masks at 1.
const EPS: f64 = 1e-6;

/// The two parts of the segmentation loss, each a scalar tensor.
#[derive(Debug)]
pub struct SegmentationLoss {
    /// Binary cross entropy, mean over all pixels.
    pub cross_entropy: Tensor,
    /// `1 - IoU` of probabilities and target, mean over samples.
    pub soft_iou: Tensor,
}

impl SegmentationLoss {
    /// Their sum.
    pub fn total(&self) -> Tensor {
        &self.cross_entropy + &self.soft_iou
    }
}

/// Segmentation loss (specification, section 8).
///
/// ```text
/// seg = mean BCE(logits, m) + mean_b (1 - IoU_b)
/// IoU_b = (sum p m + eps) / (sum p + sum m - sum p m + eps),   p = sigmoid(logits), eps = 1e-6
/// ```
///
/// - logits: `[batch, 1, h, w]`; enlarged to the target's size by the nearest rule if it differs
/// - target: `[batch, 1, H, W]`, 0..=1; fractional borders are used as they are. Its own sum is taken in its own
///   precision (at least float32), as in the official code, whatever that of the logits.
pub fn segmentation_loss(logits: &Tensor, target: &Tensor) -> SegmentationLoss {
    let (logits, target) = (wide(logits), wide(target));
    let per_sample = |xs: &Tensor| xs.flatten(1, -1).sum_dim_intlist([1].as_slice(), false, None);
    let area = per_sample(&target);
    let target = target.to_kind(logits.kind());
    let size = &target.size()[2..];
    let logits =
        if &logits.size()[2..] == size { logits } else { logits.upsample_nearest2d(size, None, None) };
    let cross_entropy =
        logits.binary_cross_entropy_with_logits(&target, None::<&Tensor>, None::<&Tensor>, Reduction::Mean);
    let probabilities = logits.sigmoid();
    let both = per_sample(&(&probabilities * &target));
    let either = per_sample(&probabilities) + area - &both;
    let iou = (both + EPS) / (either + EPS);
    SegmentationLoss { cross_entropy, soft_iou: (1.0_f64 - iou).mean(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_pixels_by_hand() {
        // p = [1/2, 3/4]: BCE = (ln 2 + ln 4/3) / 2 against target [1, 1]; IoU = 1.25 / 2.
        let logits = Tensor::from_slice(&[0.0, 3.0_f64.ln()]).view([1, 1, 1, 2]);
        let loss = segmentation_loss(&logits, &Tensor::from_slice(&[1.0, 1.0]).view([1, 1, 1, 2]));
        let expected = (2.0_f64.ln() + (4.0_f64 / 3.0).ln()) / 2.0;
        assert!((f64::try_from(loss.cross_entropy).unwrap() - expected).abs() < 1e-12);
        assert!((f64::try_from(loss.soft_iou).unwrap() - 0.375).abs() < 1e-6);
    }

    #[test]
    fn logits_are_enlarged_by_the_nearest_rule() {
        let logits = Tensor::from_slice(&[-40.0, 40.0]).view([1, 1, 1, 2]);
        let target = Tensor::from_slice(&[0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0]).view([1, 1, 1, 7]);
        // Sources floor(i * 2 / 7) = 0 0 0 0 1 1 1.
        assert!(f64::try_from(segmentation_loss(&logits, &target).total()).unwrap() < 1e-6);
    }

    #[test]
    fn an_empty_prediction_of_an_empty_mask_costs_nothing() {
        let logits = Tensor::full([1, 1, 4, 4], -60.0, (tch::Kind::Double, tch::Device::Cpu));
        let loss = segmentation_loss(&logits, &logits.zeros_like());
        assert!(f64::try_from(loss.total()).unwrap() < 1e-9);
    }
}
