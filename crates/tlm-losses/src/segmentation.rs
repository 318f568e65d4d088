use tch::{Kind, Reduction, Tensor};

use crate::{full_precision, wide};

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
    /// The loss: the sum of both parts.
    pub fn total(&self) -> Tensor {
        &self.cross_entropy + &self.soft_iou
    }
}

/// Settings of [`Segmentation`]: none yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SegmentationConfig {}

/// Segmentation loss (specification, section 8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Segmentation(SegmentationConfig);

impl Segmentation {
    /// The loss with these settings.
    pub fn new(cfg: SegmentationConfig) -> Self {
        Self(cfg)
    }

    /// The loss of a batch.
    ///
    /// ```text
    /// seg = mean BCE(logits, m) + mean_b (1 - IoU_b)
    /// IoU_b = (sum p m + eps) / (sum p + sum m - sum p m + eps),   p = sigmoid(logits), eps = 1e-6
    /// ```
    ///
    /// The official code first upsamples the logits to the target's size (nearest neighbour). A logit then stands for a block
    /// of pixels, so the same sums can be taken over the logits, with the pixel count and the target sum of each block computed
    /// beforehand.
    ///
    /// - logits: `[batch, 1, h, w]`, of the target's size or any other
    /// - target: `[batch, 1, H, W]`, 0..=1; fractional borders are used unchanged. Its sum is taken in its own precision (at
    ///   least float32) and in memory order, as in the official code, independent of the dtype of the logits.
    ///
    /// ```
    /// use tch::{Device, Kind, Tensor};
    /// // Sure and right: logits of 40 where the mask is 1.
    /// let mask = Tensor::ones([1, 1, 4, 4], (Kind::Float, Device::Cpu));
    /// let loss = tlm_losses::Segmentation::default().loss(&(&mask * 40.0), &mask);
    /// assert!(loss.total().double_value(&[]) < 1e-6);
    /// ```
    pub fn loss(&self, logits: &Tensor, target: &Tensor) -> SegmentationLoss {
        let _guard = full_precision(logits.device());
        let (logits, target) = (wide(logits), wide(target));
        let per_sample = |xs: &Tensor| xs.sum_dim_intlist([1, 2, 3].as_slice(), false, None);
        let area = per_sample(&target);
        let n_pixels = target.numel() as f64;
        let (sums, pixels) = blocks(&target.to_kind(logits.kind()), &logits.size());
        // BCE is linear in the target: over a block of n pixels it is n times that of the block's mean.
        let mean = &sums / pixels.clamp_min(1.0);
        let cross_entropy =
            logits.binary_cross_entropy_with_logits(&mean, Some(&pixels), None::<&Tensor>, Reduction::Sum)
                / n_pixels;
        let probabilities = logits.sigmoid();
        let intersection = per_sample(&(&probabilities * &sums));
        let union = per_sample(&(&probabilities * &pixels)) + area - &intersection;
        let iou = (intersection + EPS) / (union + EPS);
        SegmentationLoss { cross_entropy, soft_iou: (1.0_f64 - iou).mean(None) }
    }
}

/// For the block of each logit: the target's sum, `[batch, 1, h, w]`, and the number of pixels, `[h, w]`.
///
/// Pixel i belongs to logit `floor(i * logits / pixels)` along each axis.
fn blocks(target: &Tensor, logits: &[i64]) -> (Tensor, Tensor) {
    let (kind, device) = (target.kind(), target.device());
    let members = |n_pixels: i64, n_logits: i64| {
        let owner = (Tensor::arange(n_pixels, (Kind::Int64, device)) * n_logits)
            .divide_scalar_mode(n_pixels, "floor");
        owner.unsqueeze(1).eq_tensor(&Tensor::arange(n_logits, (Kind::Int64, device))).to_kind(kind) // pixels, logits
    };
    let (size, [rows, columns]) = (target.size(), [logits[2], logits[3]]);
    let (height, width) = (size[2], size[3]);
    if (height, width) == (rows, columns) {
        return (target.shallow_clone(), Tensor::ones([rows, columns], (kind, device)));
    }
    let (by_row, by_column) = (members(height, rows), members(width, columns));
    let sums = by_row.transpose(0, 1).matmul(target).matmul(&by_column);
    let count = |members: &Tensor| members.sum_dim_intlist([0].as_slice(), false, None);
    (sums, count(&by_row).outer(&count(&by_column)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_pixels_by_hand() {
        // p = [1/2, 3/4]: BCE = (ln 2 + ln 4/3) / 2 against target [1, 1]; IoU = 1.25 / 2.
        let logits = Tensor::from_slice(&[0.0, 3.0_f64.ln()]).view([1, 1, 1, 2]);
        let loss = Segmentation::default().loss(&logits, &Tensor::from_slice(&[1.0, 1.0]).view([1, 1, 1, 2]));
        let expected = (2.0_f64.ln() + (4.0_f64 / 3.0).ln()) / 2.0;
        assert!((f64::try_from(loss.cross_entropy).unwrap() - expected).abs() < 1e-12);
        assert!((f64::try_from(loss.soft_iou).unwrap() - 0.375).abs() < 1e-6);
    }

    #[test]
    fn logits_are_enlarged_by_the_nearest_rule() {
        let logits = Tensor::from_slice(&[-40.0, 40.0]).view([1, 1, 1, 2]);
        let target = Tensor::from_slice(&[0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0]).view([1, 1, 1, 7]);
        // Sources floor(i * 2 / 7) = 0 0 0 0 1 1 1.
        assert!(f64::try_from(Segmentation::default().loss(&logits, &target).total()).unwrap() < 1e-6);
    }

    #[test]
    fn blocks_equal_enlarged_logits() {
        tch::manual_seed(0);
        let place = (Kind::Double, tch::Device::Cpu);
        for (from, to) in [([4, 6], [14, 9]), ([5, 5], [3, 4]), ([4, 4], [4, 9])] {
            let logits = Tensor::randn([2, 1, from[0], from[1]], place) * 4.0;
            let leaf = || logits.copy().set_requires_grad(true);
            let target = Tensor::rand([2, 1, to[0], to[1]], place);
            let (small, large) = (leaf(), leaf());
            let ours = Segmentation::default().loss(&small, &target);
            let enlarged = large.upsample_nearest2d(to, None, None);
            let theirs = Segmentation::default().loss(&enlarged, &target);
            let none = None::<&Tensor>;
            let by_torch = enlarged.binary_cross_entropy_with_logits(&target, none, none, Reduction::Mean);
            let close = |a: &Tensor, b: &Tensor| f64::try_from((a - b).abs().max()).unwrap() < 1e-12;
            assert!(close(&theirs.cross_entropy, &by_torch));
            assert!(close(&ours.cross_entropy, &by_torch) && close(&ours.soft_iou, &theirs.soft_iou));
            ours.total().backward();
            theirs.total().backward();
            assert!(close(&small.grad(), &large.grad()));
        }
    }

    #[test]
    fn an_empty_prediction_of_an_empty_mask_costs_nothing() {
        let logits = Tensor::full([1, 1, 4, 4], -60.0, (tch::Kind::Double, tch::Device::Cpu));
        let loss = Segmentation::default().loss(&logits, &logits.zeros_like());
        assert!(f64::try_from(loss.total()).unwrap() < 1e-9);
    }
}
