use tch::{Kind, Tensor};
use torch_ext::across::Processes;

use crate::objects::{ObjectMaps, Objects, mean_where, over_pixels};
use crate::{full_precision, unit, wide};

/// Settings of [`InstanceContrast`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InstanceContrastConfig {
    /// Temperature that divides the objects' scores.
    pub temperature: f64,
}

impl Default for InstanceContrastConfig {
    fn default() -> Self {
        Self { temperature: 1.0 }
    }
}

/// Instance-level activation: of all objects of the target's category in the image, the target must answer most to the sentence.
/// A cross-entropy over objects, as referring expression comprehension trains its choice among proposals. This project's own, not
/// part of TALENT.
///
/// ```text
/// s_k = mean of the response over object k, weighted by its map
/// l_b = -log softmax(s / temperature)_target       over the objects of the sample
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct InstanceContrast(InstanceContrastConfig);

impl InstanceContrast {
    /// The loss with these settings.
    pub fn new(cfg: InstanceContrastConfig) -> Self {
        Self(cfg)
    }

    /// The loss of a batch, a scalar: the mean over samples with a distractor, 0 if there is none.
    ///
    /// - responses: `[batch, h, w]`, larger where the model sees the target, such as logits
    /// - processes: the ranks that share the batch, if there are several
    pub fn of_responses(
        &self,
        responses: &Tensor,
        objects: ObjectMaps<'_>,
        processes: Option<&dyn Processes>,
    ) -> Tensor {
        let _guard = full_precision(responses.device());
        let size = responses.size();
        let objects = objects.on([size[1], size[2]]);
        let sums = over_pixels(&(wide(responses).unsqueeze(1) * &objects.maps));
        self.choice(&(sums / objects.areas.clamp_min(1e-6)), &objects, processes)
    }

    /// The loss of a batch from features: an object's score is the cosine of its mean feature and the sentence vector.
    ///
    /// - features: `[batch, C, h, w]`; sentence: `[batch, C]`
    /// - processes: the ranks that share the batch, if there are several
    pub fn of_features(
        &self,
        features: &Tensor,
        sentence: &Tensor,
        objects: ObjectMaps<'_>,
        processes: Option<&dyn Processes>,
    ) -> Tensor {
        let _guard = full_precision(features.device());
        let size = features.size();
        let objects = objects.on([size[2], size[3]]);
        // A cosine does not depend on the length, so that sums serve as means.
        let sums = objects.maps.flatten(2, 3).bmm(&wide(features).flatten(2, 3).transpose(1, 2)); // b M C
        let scores = (unit(&sums, 2) * unit(&wide(sentence), 1).unsqueeze(1)).sum_dim_intlist(
            [2].as_slice(),
            false,
            None::<Kind>,
        );
        self.choice(&scores, &objects, processes)
    }

    /// - scores: `[batch, M]`
    fn choice(&self, scores: &Tensor, objects: &Objects, processes: Option<&dyn Processes>) -> Tensor {
        let absent = objects.present().logical_not();
        // Finite, since samples without objects would have a gradient that is not a number.
        let scores = (scores / self.0.temperature).masked_fill(&absent, -1e9);
        let per_sample = -scores.log_softmax(1, None::<Kind>).select(1, 0);
        mean_where(&per_sample, &objects.confusable(), processes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::tests::maps;

    #[test]
    fn responses_by_hand() {
        let responses = [2.0, 1.0, 4.0, 9.0, 0.0, 0.0, 0.0, 0.0];
        let responses = Tensor::from_slice(&responses).view([2, 1, 4]).set_requires_grad(true);
        let contrast = InstanceContrast::new(InstanceContrastConfig { temperature: 2.0 });
        let loss = contrast.of_responses(&responses, ObjectMaps(&maps()), None);
        // Means 2, 5/2 and 4; the second sample has nothing to confuse.
        let expected = -1.0 + [2.0, 2.5, 4.0].map(|mean: f64| (mean / 2.0).exp()).iter().sum::<f64>().ln();
        assert!((f64::try_from(&loss).unwrap() - expected).abs() < 1e-9);
        loss.backward();
        let gradient = Vec::<f64>::try_from(responses.grad().flatten(0, -1)).unwrap();
        assert!(gradient[0] < 0.0 && gradient[2] > 0.0 && gradient[3..] == [0.0; 5], "{gradient:?}");
    }

    #[test]
    fn features_by_hand() {
        // Features of two channels: (1, 0) on the target, (0, 3) on both distractors; the sentence is (2, 0).
        let features = [[1.0, 0.0, 0.0, 7.0], [0.0, 3.0, 3.0, 7.0], [1.0; 4], [1.0; 4]];
        let features: Vec<f64> = features.into_iter().flatten().collect();
        let features = Tensor::from_slice(&features).view([2, 2, 1, 4]);
        let sentence = Tensor::from_slice(&[2.0, 0.0, 1.0, 1.0]).view([2, 2]);
        let loss = InstanceContrast::default().of_features(&features, &sentence, ObjectMaps(&maps()), None);
        let expected = -1.0 + (1.0_f64.exp() + 2.0).ln();
        assert!((f64::try_from(loss).unwrap() - expected).abs() < 1e-9);
    }

    #[test]
    fn samples_without_objects_have_no_gradient() {
        let maps = Tensor::zeros([1, 3, 1, 4], (Kind::Double, tch::Device::Cpu));
        let responses = Tensor::from_slice(&[1.0, 2.0, 3.0, 4.0]).view([1, 1, 4]).set_requires_grad(true);
        let loss = InstanceContrast::default().of_responses(&responses, ObjectMaps(&maps), None);
        loss.backward();
        assert_eq!(f64::try_from(&loss).unwrap(), 0.0);
        assert_eq!(f64::try_from(responses.grad().abs().sum(None::<Kind>)).unwrap(), 0.0);
    }
}
