use tch::{Kind, Tensor};
use torch_ext::across::Processes;

use crate::objects::mean_where;
use crate::{full_precision, unit, wide};

/// Settings of [`PixelContrast`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PixelContrastConfig {
    /// Temperature that divides the cosines.
    pub temperature: f64,
}

impl Default for PixelContrastConfig {
    fn default() -> Self {
        Self { temperature: 0.1 }
    }
}

/// Text-to-pixel contrast: of all positions of an image, those of the target must answer most to the sentence. The softmax over
/// positions weights those that are most easily confused with the target, such as other objects of its category. Text-to-pixel
/// contrast is that of CRIS (Wang et al., CVPR 2022), which decides about each pixel alone; the softmax is this project's.
///
/// ```text
/// s_x = cos(f_x, txt) / temperature
/// l_b = sum_x t_x / |t| * (log(t_x / |t|) - log softmax(s)_x)         t: share of position x that the target covers
/// ```
///
/// It is the Kullback-Leibler divergence from the target's distribution to that of the responses, so its least value is 0.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PixelContrast(PixelContrastConfig);

impl PixelContrast {
    /// The loss with these settings.
    pub fn new(cfg: PixelContrastConfig) -> Self {
        Self(cfg)
    }

    /// The loss of a batch, a scalar of at least 0: the mean over samples whose target is visible, 0 if there is none.
    ///
    /// - features: `[batch, C, h, w]`; sentence: `[batch, C]`; masks: `[batch, 1, H, W]`, 0 to 1
    /// - processes: the ranks that share the batch, if there are several
    pub fn loss(
        &self,
        features: &Tensor,
        sentence: &Tensor,
        masks: &Tensor,
        processes: Option<&dyn Processes>,
    ) -> Tensor {
        let _guard = full_precision(features.device());
        let size = features.size();
        let target = wide(masks).adaptive_avg_pool2d([size[2], size[3]]).flatten(1, 3); // b N
        let area = target.sum_dim_intlist([1].as_slice(), true, None::<Kind>);
        let target = &target / area.clamp_min(1e-6);
        let sentence = unit(&wide(sentence), 1).unsqueeze(1);
        let scores = sentence.bmm(&unit(&wide(features), 1).flatten(2, 3)).squeeze_dim(1); // b N
        let answer = (scores / self.0.temperature).log_softmax(1, None::<Kind>);
        // 0 log 0 = 0.
        let own = target.clamp_min(1e-12).log();
        let per_sample = (&target * (own - answer)).sum_dim_intlist([1].as_slice(), false, None::<Kind>);
        mean_where(&per_sample, &area.squeeze_dim(1).gt(0.0).to_kind(per_sample.kind()), processes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        // Two samples of two positions; cosines 1 and 0 in the first, and no target in the second.
        let features = Tensor::from_slice(&[2.0, 0.0, 0.0, 3.0, 1.0, 1.0, 1.0, 1.0]).view([2, 2, 1, 2]);
        let features = features.set_requires_grad(true);
        let sentence = Tensor::from_slice(&[5.0, 0.0, 1.0, 0.0]).view([2, 2]);
        let masks = Tensor::from_slice(&[1.0, 0.0, 0.0, 0.0]).view([2, 1, 1, 2]);
        let contrast = PixelContrast::new(PixelContrastConfig { temperature: 0.5 });
        let loss = contrast.loss(&features, &sentence, &masks, None);
        let expected = (1.0 + (-2.0_f64).exp()).ln();
        assert!((f64::try_from(&loss).unwrap() - expected).abs() < 1e-9);
        loss.backward();
        let gradient = Vec::<f64>::try_from(features.grad().flatten(0, -1)).unwrap();
        assert!(gradient.iter().all(|value| value.is_finite()) && gradient[4..] == [0.0; 4]);
        // The second position must turn away from the sentence.
        assert!(gradient[1] > 0.0, "{gradient:?}");
    }

    #[test]
    fn answers_that_are_the_target_cost_nothing() {
        let cosines: [f64; 3] = [0.75, 0.25, 0.0];
        let features: Vec<f64> =
            cosines.iter().copied().chain(cosines.map(|cosine| (1.0 - cosine * cosine).sqrt())).collect();
        let features = Tensor::from_slice(&features).view([1, 2, 1, 3]);
        let sentence = Tensor::from_slice(&[1.0, 0.0]).view([1, 2]);
        let answers = cosines.map(f64::exp);
        let masks = Tensor::from_slice(&answers.map(|answer| answer / 3.0)).view([1, 1, 1, 3]);
        let contrast = PixelContrast::new(PixelContrastConfig { temperature: 1.0 });
        let loss = f64::try_from(contrast.loss(&features, &sentence, &masks, None)).unwrap();
        assert!(loss.abs() < 1e-9, "{loss}");
    }
}
