use tch::Tensor;
use torch_ext::across::Processes;

use crate::objects::{ObjectMaps, mean_where, over_pixels};
use crate::{full_precision, wide};

/// Keeps the share defined where a prediction is nearly nothing.
const EPS: f64 = 1e-6;

/// Settings of [`DistractorMass`]: none yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct DistractorMassConfig {}

/// NTA mass as a loss: the share of the probability on objects of the target's category that lies on distractors. This project's
/// own, not part of TALENT. Its value is the metric `nta_mass` on the grid of the logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DistractorMass(DistractorMassConfig);

impl DistractorMass {
    /// The loss with these settings.
    pub fn new(cfg: DistractorMassConfig) -> Self {
        Self(cfg)
    }

    /// The loss of a batch, a scalar in 0..1: the mean over samples with a distractor, 0 if there is none.
    ///
    /// ```text
    /// mass_b = sum_x p d / (sum_x p t + sum_x p d + eps)     p = sigmoid(logits), eps = 1e-6
    /// t: the target's map, d: sum of the distractors' maps, at most 1
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
        let probabilities = wide(logits).sigmoid().squeeze_dim(1);
        let astray = over_pixels(&(&probabilities * objects.distractors()));
        let on_target = over_pixels(&(&probabilities * objects.target()));
        mean_where(&(&astray / (on_target + &astray + EPS)), &objects.confusable(), processes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::tests::maps;

    #[test]
    fn the_share_by_hand() {
        // p = [3/4, 1/2, 1/4, 1/2] in the first sample: 3/4 on the target, 1/2 + 1/4 on distractors. The second has none.
        let odds = [3.0, 1.0, 1.0 / 3.0, 1.0, 9.0, 9.0, 9.0, 9.0].map(f64::ln);
        let logits = Tensor::from_slice(&odds).view([2, 1, 1, 4]).set_requires_grad(true);
        let loss = DistractorMass::default().loss(&logits, ObjectMaps(&maps()), None);
        assert!((f64::try_from(&loss).unwrap() - 0.5).abs() < 1e-6);
        loss.backward();
        let gradient = Vec::<f64>::try_from(logits.grad().flatten(0, -1)).unwrap();
        assert!(gradient[0] < 0.0 && gradient[1] > 0.0 && gradient[2] > 0.0);
        assert_eq!(gradient[3..], [0.0; 5]);
    }
}
