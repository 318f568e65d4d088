use tch::{Device, Tensor};
use torch_ext::Autocast;

use crate::affinity::mean_gap;
use crate::partners::{above_threshold, strongest};
use crate::{full_precision, wide};

/// Result of [`Cpcl`] for one level.
#[derive(Debug)]
pub struct CpclLoss {
    /// The loss, a scalar. If no position has a partner, it is exactly 0, and its gradient is zero or undefined.
    pub loss: Tensor,
    /// int64 `[batch, N, k]`: the partners of each position, -1 where there is none; k is 1 unless
    /// [`CpclConfig::top_k`] is set.
    pub partners: Tensor,
}

/// Settings of [`Cpcl`]. The default is the published loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CpclConfig {
    /// Text affinity above which two positions are partners. Must be at least 0.5, so that each position has at most one
    /// partner.
    pub threshold: f64,
    /// Divisor of the cosines. At the published value 1, an affinity is at most e / (e + N - 1). The loss is then close to the
    /// share of positions with a partner, and its gradient is close to zero (quirk Q9).
    pub temperature: f64,
    /// If set, replaces the threshold: the partners of a position are the k positions with the largest text affinity.
    pub top_k: Option<i64>,
}

impl Default for CpclConfig {
    fn default() -> Self {
        Self { threshold: 0.7, temperature: 1.0, top_k: None }
    }
}

/// Contextual pairwise consistency learning, CPCL (specification, section 8).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Cpcl(CpclConfig);

impl Cpcl {
    /// The loss with these settings.
    pub fn new(cfg: CpclConfig) -> Self {
        Self(cfg)
    }

    /// The loss of one level.
    ///
    /// ```text
    /// A_ij = softmax_j (cos(f_i, f_j) / temperature)   visual affinity
    /// R_ij = softmax_j (s_i s_j), s_i = f_i . t        text affinity
    /// M_ij = 1 if R_ij > threshold, otherwise 0        no gradient
    /// L    = mean over b, i of || A_i. * M_i. - M_i. ||
    /// ```
    ///
    /// The result is exact, but no N x N matrix of text affinities is formed. In large batches on a CPU, visual affinities are
    /// computed one sample at a time and, if this is cheaper, only for the positions that have a partner.
    ///
    /// - features: `[batch, C, H, W]`, not negative (all zero at some positions)
    /// - sentence: `[batch, C]`; receives no gradient
    ///
    /// ```
    /// use tch::Tensor;
    /// // Two positions with features (1, 0) and (0, 1): the first answers to the sentence and is its own partner.
    /// let features = Tensor::from_slice(&[1.0, 0.0, 0.0, 1.0]).view([1, 2, 1, 2]);
    /// let out = tlm_losses::Cpcl::default().loss(&features, &Tensor::from_slice(&[3.0, 0.0]).view([1, 2]));
    /// assert_eq!(Vec::<i64>::try_from(out.partners.view([-1])).unwrap(), [0, -1]);
    /// ```
    pub fn loss(&self, features: &Tensor, sentence: &Tensor) -> CpclLoss {
        let mixed = Autocast::kind(features.device()).is_some();
        let _guard = full_precision(features.device());
        let features = wide(features).flatten(2, 3); // b c n
        let partners = tch::no_grad(|| {
            let responses = wide(sentence).unsqueeze(1).bmm(&features).squeeze_dim(1); // b n
            match self.0.top_k {
                Some(k) => strongest(&responses, k),
                None => above_threshold(&responses, self.0.threshold),
            }
        });
        let loss = mean_gap(&features, &partners, self.0.temperature, mixed);
        CpclLoss { loss, partners }
    }

    /// The mean of the losses of several levels of equal size.
    ///
    /// - levels: `[batch, C, H, W]` each; sentence: `[batch, C]`
    pub fn mean_loss(&self, levels: &[Tensor], sentence: &Tensor) -> Tensor {
        let n = levels.len() as i64;
        if sentence.device() == Device::Cpu {
            let losses = levels.iter().map(|level| self.loss(level, sentence).loss);
            return losses.sum::<Tensor>() / n as f64;
        }
        // On a GPU, joining the three levels into one batch takes a third of the kernel launches. A CPU would only need more
        // memory.
        self.loss_of_joined(levels, sentence)
    }

    /// As [`Cpcl::mean_loss`], with the levels as one batch.
    fn loss_of_joined(&self, levels: &[Tensor], sentence: &Tensor) -> Tensor {
        self.loss(&Tensor::cat(levels, 0), &sentence.repeat([levels.len() as i64, 1])).loss
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit;
    use tch::Kind;

    /// The loss by its definition, with its N x N matrices, differentiable by autograd.
    fn by_definition(features: &Tensor, sentence: &Tensor, how: &CpclConfig) -> Tensor {
        let f = features.flatten(2, 3);
        let directions = unit(&f, 1);
        let visual = (directions.transpose(1, 2).bmm(&directions) / how.temperature).softmax(-1, None);
        let mask = tch::no_grad(|| {
            let response = sentence.unsqueeze(1).bmm(&f);
            let products = response.transpose(1, 2).bmm(&response);
            match how.top_k {
                None => products.softmax(-1, None).gt(how.threshold).to_kind(Kind::Double),
                Some(k) => {
                    let chosen = products.topk(k, -1, true, true).1;
                    let some = response.transpose(1, 2).ne(0.0).to_kind(Kind::Double);
                    products.zeros_like().scatter_value(-1, &chosen, 1.0) * some
                }
            }
        });
        // The square root has no derivative at 0.
        let squares = (visual * &mask - mask).square().sum_dim_intlist([2].as_slice(), false, None);
        let some = squares.gt(0.0);
        let roots = squares.where_self(&some, &squares.ones_like()).sqrt();
        roots.where_self(&some, &roots.zeros_like()).mean(None)
    }

    fn value_and_gradient(features: &Tensor, loss: impl Fn(&Tensor) -> Tensor) -> (f64, Tensor) {
        let leaf = features.detach().copy().set_requires_grad(true);
        let loss = loss(&leaf);
        (&loss * 3.0).backward();
        (f64::try_from(loss).unwrap(), leaf.grad() / 3.0)
    }

    #[test]
    fn value_and_gradient_equal_the_definition() {
        tch::manual_seed(1);
        let ways = [
            CpclConfig::default(),
            CpclConfig { threshold: 0.9, ..Default::default() },
            CpclConfig { temperature: 0.05, ..Default::default() },
            CpclConfig { temperature: 0.2, top_k: Some(3), ..Default::default() },
        ];
        // Small batches are computed at once, large ones one sample at a time with few or nearly all rows.
        for (size, scales) in [([2, 4, 3, 5], vec![0.1, 1.0, 10.0]), ([2, 8, 24, 24], vec![0.6, 1.0, 30.0])] {
            let features = (Tensor::randn(size, (Kind::Double, Device::Cpu)) * 2.0).relu();
            for scale in scales {
                let sentence = Tensor::randn([2, size[1]], (Kind::Double, Device::Cpu)) * scale;
                for how in &ways {
                    let ours = value_and_gradient(&features, |f| Cpcl::new(*how).loss(f, &sentence).loss);
                    let theirs = value_and_gradient(&features, |f| by_definition(f, &sentence, how));
                    assert!((ours.0 - theirs.0).abs() < 1e-13, "{how:?}: {} {}", ours.0, theirs.0);
                    // Where the features are zero, autograd's gradient of the definition is 1e12 times the incoming one.
                    let dead = features.amax([1].as_slice(), true).eq(0.0);
                    let expected = theirs.1.masked_fill(&dead, 0.0);
                    let largest = f64::try_from(expected.abs().max()).unwrap();
                    let difference = f64::try_from((&ours.1 - expected).abs().max()).unwrap();
                    assert!(difference <= 1e-12 * largest.max(1e-3), "{how:?}: {difference} of {largest}");
                }
            }
        }
    }

    #[test]
    fn levels_as_one_batch_have_the_mean_of_their_losses() {
        tch::manual_seed(5);
        let place = (Kind::Double, Device::Cpu);
        let features = (Tensor::randn([3, 2, 4, 3, 5], place) * 2.0).relu();
        let sentence = Tensor::randn([2, 4], place);
        let of = |loss: &dyn Fn(&[Tensor], &Tensor) -> Tensor| {
            value_and_gradient(&features, |all| loss(&all.unbind(0), &sentence))
        };
        let (joined, by_joined) = of(&|levels, sentence| Cpcl::default().loss_of_joined(levels, sentence));
        let (mean, by_each) = of(&|levels, sentence| Cpcl::default().mean_loss(levels, sentence));
        assert!(mean > 0.1 && (joined - mean).abs() < 1e-13, "{joined} {mean}");
        assert!(by_joined.allclose(&by_each, 1e-12, 1e-15, false));
    }

    #[test]
    fn two_positions_by_hand() {
        // s = (3, 0): row 0 has R = softmax(9, 0), partner itself; row 1 is undecided (1/2, 1/2).
        let features = Tensor::from_slice(&[1.0, 0.0, 0.0, 1.0]).view([1, 2, 1, 2]).set_requires_grad(true);
        let sentence = Tensor::from_slice(&[3.0, 0.0]).view([1, 2]);
        let out = Cpcl::default().loss(&features, &sentence);
        assert_eq!(Vec::<i64>::try_from(out.partners.view([-1])).unwrap(), [0, -1]);
        let affinity = 1.0_f64.exp() / (1.0_f64.exp() + 1.0);
        assert!((f64::try_from(&out.loss).unwrap() - (1.0 - affinity) / 2.0).abs() < 1e-12);
    }

    #[test]
    fn positions_without_features_get_a_finite_gradient() {
        let features =
            Tensor::from_slice(&[5.0_f32, 0.0, 0.0, 0.0]).view([1, 2, 1, 2]).set_requires_grad(true);
        let out = Cpcl::default().loss(&features, &Tensor::from_slice(&[2.0_f32, 0.0]).view([1, 2]));
        out.loss.backward();
        let gradient = Vec::<f32>::try_from(features.grad().view([-1])).unwrap();
        assert!(gradient.iter().all(|value| value.is_finite()), "{gradient:?}");
    }

    #[test]
    fn autocast_changes_nothing() {
        tch::manual_seed(3);
        let features = Tensor::rand([1, 8, 6, 6], (Kind::Float, Device::Cpu));
        let sentence = Tensor::rand([1, 8], (Kind::Float, Device::Cpu)) * 9.0;
        let loss = || f64::try_from(Cpcl::default().loss(&features, &sentence).loss).unwrap();
        let outside = loss();
        let _guard = Autocast::enable(Device::Cpu, Kind::BFloat16).unwrap();
        assert_eq!(loss(), outside);
    }

    #[test]
    fn half_precision_features_get_half_precision_gradients() {
        tch::manual_seed(2);
        let features = Tensor::rand([1, 4, 3, 3], (Kind::BFloat16, Device::Cpu)).set_requires_grad(true);
        let out = Cpcl::default().loss(&features, &Tensor::full([1, 4], 9.0, (Kind::BFloat16, Device::Cpu)));
        assert_eq!(out.loss.kind(), Kind::Float);
        out.loss.backward();
        assert_eq!(features.grad().kind(), Kind::BFloat16);
    }
}
