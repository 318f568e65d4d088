use tch::Tensor;
use torch_ext::across::Processes;

use crate::objects::{ObjectMaps, mean_where, over_pixels};
use crate::{full_precision, wide};

/// Settings of [`Suppression`]: none yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SuppressionConfig {}

/// Cross entropy on the pixels of distractors alone, which are few among those of the segmentation loss (hard negative mining with
/// known negatives). This project's own, not part of TALENT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Suppression(SuppressionConfig);

impl Suppression {
    /// The loss with these settings.
    pub fn new(cfg: SuppressionConfig) -> Self {
        Self(cfg)
    }

    /// The loss of a batch, a scalar: the mean over samples with a distractor, 0 if there is none.
    ///
    /// ```text
    /// l_b = sum_x d (-log(1 - p)) / sum_x d     p = sigmoid(logits), d: sum of the distractors' maps, at most 1
    /// ```
    ///
    /// - logits: `[batch, 1, h, w]`
    /// - processes: the ranks that share the batch, if there are several
    pub fn loss(
        &self,
        logits: &Tensor,
        objects: ObjectMaps<'_>,
        processes: Option<&dyn Processes>,
    ) -> Tensor {
        let _guard = full_precision(logits.device());
        let size = logits.size();
        let objects = objects.on([size[2], size[3]]);
        let distractors = objects.distractors();
        let costs = wide(logits).softplus().squeeze_dim(1);
        let per_sample = over_pixels(&(costs * &distractors)) / over_pixels(&distractors).clamp_min(1e-6);
        mean_where(&per_sample, &objects.confusable(), processes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::tests::maps;

    #[test]
    fn pixels_of_distractors_by_hand() {
        // 1 - p = [.., 1/2, 1/4, ..] on the two pixels of distractors.
        let odds = [5.0, 1.0, 3.0, 5.0, 9.0, 9.0, 9.0, 9.0].map(f64::ln);
        let logits = Tensor::from_slice(&odds).view([2, 1, 1, 4]);
        let loss = f64::try_from(Suppression::default().loss(&logits, ObjectMaps(&maps()), None)).unwrap();
        assert!((loss - (2.0_f64.ln() + 4.0_f64.ln()) / 2.0).abs() < 1e-9);
    }
}
