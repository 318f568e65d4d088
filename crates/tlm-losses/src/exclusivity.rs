use tch::{Kind, Tensor};
use torch_ext::across::Processes;

use crate::objects::mean_where;
use crate::{full_precision, wide};

/// Two expressions of an image are rivals if the IoU of their targets is below this.
const SAME_TARGET: f64 = 0.5;

/// Settings of [`Exclusivity`]: none yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ExclusivityConfig {}

/// Exclusivity of rivals: where two expressions of one image mean different objects, a pixel can belong to one of them only. This
/// project's own, not part of TALENT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Exclusivity(ExclusivityConfig);

impl Exclusivity {
    /// The loss with these settings.
    pub fn new(cfg: ExclusivityConfig) -> Self {
        Self(cfg)
    }

    /// The loss of a batch, a scalar in 0..1: the mean over expressions with a rival, 0 if there is none.
    ///
    /// ```text
    /// e_ij = sum_x p_i p_j t_j / sum_x t_j      p = sigmoid(logits), t: target
    /// l_i  = mean of e_ij over the rivals j of i
    /// ```
    ///
    /// - logits: `[batch, 1, h, w]`
    /// - targets: `[batch, 1, H, W]`, 0 to 1
    /// - image_of: int64 `[batch]`, the image that each expression is about
    /// - processes: the ranks that share the batch, if there are several; rivals are looked for in each rank's own part
    pub fn loss(
        &self,
        logits: &Tensor,
        targets: &Tensor,
        image_of: &Tensor,
        processes: Option<&dyn Processes>,
    ) -> Tensor {
        let _guard = full_precision(logits.device());
        let size = logits.size();
        let probabilities = wide(logits).sigmoid().flatten(1, 3); // b x
        let targets = wide(targets).adaptive_avg_pool2d([size[2], size[3]]).to_kind(probabilities.kind());
        let targets = targets.flatten(1, 3);
        let areas = targets.sum_dim_intlist([1].as_slice(), false, None::<Kind>);
        let rivals = rivals(&targets, &areas, image_of);
        let shared =
            probabilities.matmul(&(&probabilities * &targets).transpose(0, 1)) / areas.clamp_min(1e-6);
        let n_rivals = rivals.sum_dim_intlist([1].as_slice(), false, None::<Kind>);
        let per_sample =
            (shared * rivals).sum_dim_intlist([1].as_slice(), false, None::<Kind>) / n_rivals.clamp_min(1.0);
        mean_where(&per_sample, &n_rivals.gt(0.0), processes)
    }
}

/// `[batch, batch]`, 1 where the expression of the column is a rival of the row's: of the same image, with another target that is
/// not empty.
fn rivals(targets: &Tensor, areas: &Tensor, image_of: &Tensor) -> Tensor {
    let same_image = image_of.unsqueeze(1).eq_tensor(&image_of.unsqueeze(0));
    let overlap = targets.matmul(&targets.transpose(0, 1));
    let union = areas.unsqueeze(1) + areas.unsqueeze(0) - &overlap;
    let is_other = overlap.lt_tensor(&(union * SAME_TARGET));
    let has_pixels = areas.gt(0.0).unsqueeze(0);
    same_image.logical_and(&is_other).logical_and(&has_pixels).to_kind(targets.kind())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rivals_by_hand() {
        // Three expressions about image 0 (the first two mean the same object), one about image 1.
        let left = [1.0, 1.0, 0.0, 0.0];
        let right = [0.0, 0.0, 0.0, 1.0];
        let targets: Vec<f64> = [left, left, right, right].into_iter().flatten().collect();
        let targets = Tensor::from_slice(&targets).view([4, 1, 1, 4]);
        // p is 1/2 everywhere, but 3/4 where the third sees its target.
        let mut logits = vec![0.0; 16];
        logits[11] = 3.0_f64.ln();
        let logits = Tensor::from_slice(&logits).view([4, 1, 1, 4]).set_requires_grad(true);
        let image_of = Tensor::from_slice(&[0_i64, 0, 0, 1]);
        let loss = Exclusivity::default().loss(&logits, &targets, &image_of, None);
        // First and second: 1/2 * 3/4 with the third. Third: 1/4 with either. The fourth has no rival.
        let expected = (0.375 + 0.375 + 0.25) / 3.0;
        assert!((f64::try_from(&loss).unwrap() - expected).abs() < 1e-9);
        loss.backward();
        let gradient = Vec::<f64>::try_from(logits.grad().flatten(0, -1)).unwrap();
        assert!(gradient[3] > 0.0 && gradient[8] > 0.0, "on each other's pixels");
        assert_eq!((gradient[2], &gradient[12..]), (0.0, &[0.0; 4][..]));
    }

    #[test]
    fn without_rivals_it_is_zero() {
        let logits = Tensor::zeros([2, 1, 2, 2], (Kind::Double, tch::Device::Cpu));
        let image_of = Tensor::from_slice(&[0_i64, 1]);
        let loss = Exclusivity::default().loss(&logits, &logits.ones_like(), &image_of, None);
        assert_eq!(f64::try_from(loss).unwrap(), 0.0);
    }
}
