use tch::{Kind, Tensor};
use torch_ext::across::Processes;

use crate::objects::{ObjectMaps, mean_where, over_pixels};
use crate::{full_precision, wide};

/// Settings of [`ObjectEntropy`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ObjectEntropyConfig {
    /// Weight of the target beside that of all distractors together, 1. With 0 distractors are pushed down and nothing else.
    pub target_weight: f64,
}

impl Default for ObjectEntropyConfig {
    fn default() -> Self {
        Self { target_weight: 1.0 }
    }
}

/// Cross entropy on the objects of the target's category alone, each of which counts as much as any other, whatever its area: hard
/// negative mining with known negatives. In the segmentation loss these pixels are few among those of the background. This project's
/// own, not part of TALENT.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ObjectEntropy(ObjectEntropyConfig);

impl ObjectEntropy {
    /// The loss with these settings.
    pub fn new(cfg: ObjectEntropyConfig) -> Self {
        Self(cfg)
    }

    /// The loss of a batch, a scalar: the mean over samples with a distractor, 0 if there is none.
    ///
    /// ```text
    /// l_b = target_weight * mean_t(-log p) + mean over distractors k of mean_dk(-log(1 - p))      p = sigmoid(logits)
    /// mean_m(x) = sum_x m x / sum_x m        t, d_k: maps of the target and of the distractors
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
        let (logits, areas) = (wide(logits), objects.areas.clamp_min(1e-6));
        // -log(1 - p) on each object, and -log p on the target: softplus(-z) = softplus(z) - z.
        let down = over_pixels(&(logits.softplus() * &objects.maps)) / &areas; // b M
        let logit = over_pixels(&(&logits * &objects.maps)) / &areas;
        let n = areas.size()[1];
        let present = objects.present().narrow(1, 1, n - 1).to_kind(down.kind());
        let total = |xs: &Tensor| xs.sum_dim_intlist([1].as_slice(), false, None::<Kind>);
        let distractors = total(&(down.narrow(1, 1, n - 1) * &present)) / total(&present).clamp_min(1.0);
        let target = down.select(1, 0) - logit.select(1, 0);
        mean_where(&(target * self.0.target_weight + distractors), &objects.confusable(), processes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::tests::maps;

    #[test]
    fn objects_by_hand() {
        // p = [1/2, 1/2, 3/4, ..] in the first sample; the second has no distractor.
        let odds = [1.0, 1.0, 3.0, 5.0, 9.0, 9.0, 9.0, 9.0].map(f64::ln);
        let logits = Tensor::from_slice(&odds).view([2, 1, 1, 4]);
        let loss = |target_weight: f64| {
            let entropy = ObjectEntropy::new(ObjectEntropyConfig { target_weight });
            f64::try_from(entropy.loss(&logits, ObjectMaps(&maps()), None)).unwrap()
        };
        // The first distractor covers the cells with 1 - p = 1/2 and 1/4, the second half of the latter.
        let distractors = ((2.0_f64.ln() + 4.0_f64.ln()) / 2.0 + 4.0_f64.ln()) / 2.0;
        assert!((loss(0.0) - distractors).abs() < 1e-9);
        assert!((loss(2.0) - distractors - 2.0 * 2.0_f64.ln()).abs() < 1e-9);
    }
}
