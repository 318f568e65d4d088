use tch::Tensor;
use torch_ext::across::Processes;

use crate::{sum_and_number, unit, wide};

/// Result of [`Tccl`].
#[derive(Debug)]
pub struct TcclLoss {
    /// The loss, a scalar; exactly 0 when no sample has a negative.
    pub loss: Tensor,
}

/// Settings of [`Tccl`]. The default is the published loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TcclConfig {
    /// Divisor of the loss. The official code stores it under the name `eps` (quirk Q10).
    pub divisor: f64,
}

impl Default for TcclConfig {
    fn default() -> Self {
        Self { divisor: 10.0 }
    }
}

/// Target-centric contrastive learning, TCCL (specification, section 8).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Tccl(TcclConfig);

impl Tccl {
    /// The loss with these settings.
    pub fn new(cfg: TcclConfig) -> Self {
        Self(cfg)
    }

    /// The loss of a batch.
    ///
    /// ```text
    /// l_b  = -log( e^(v.pos) / (e^(v.pos) + e^(v.neg)) )     unit vectors, temperature 1
    /// tccl = sum_b valid_b l_b / ( max(sum_b valid_b, 1) * divisor )
    /// ```
    ///
    /// - aggregated: the neck's aggregated map `[batch, C, H, W]`; v is its spatial mean
    /// - positive, negative: sentence vectors `[batch, C]`
    /// - valid: `[batch]`, 1 where there is a negative, otherwise 0
    /// - processes: the ranks that share the batch, if there are several; the mean of their losses is the loss of all their
    ///   samples
    pub fn loss(
        &self,
        aggregated: &Tensor,
        positive: &Tensor,
        negative: &Tensor,
        valid: &Tensor,
        processes: Option<&dyn Processes>,
    ) -> TcclLoss {
        let visual = unit(&wide(aggregated).mean_dim([2, 3].as_slice(), false, None), 1);
        let similarity =
            |text: &Tensor| (&visual * unit(&wide(text), 1)).sum_dim_intlist([1].as_slice(), false, None);
        let per_sample = (similarity(negative) - similarity(positive)).softplus();
        let (sum, n_valid) = sum_and_number(&per_sample, valid, processes);
        TcclLoss { loss: sum / (n_valid * self.0.divisor) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(valid: &[f64]) -> f64 {
        // Sample 0: v = (1, 0), pos = (1, 0), neg = (0, 1). Sample 1: the other way round.
        let map = Tensor::from_slice(&[2.0, 0.0, 3.0, 0.0]).view([2, 2, 1, 1]);
        let positive = Tensor::from_slice(&[5.0, 0.0, 0.0, 1.0]).view([2, 2]);
        let negative = Tensor::from_slice(&[0.0, 7.0, 1.0, 0.0]).view([2, 2]);
        let loss = Tccl::default().loss(&map, &positive, &negative, &Tensor::from_slice(valid), None).loss;
        f64::try_from(loss).unwrap()
    }

    #[test]
    fn by_hand() {
        let (right, wrong) = ((1.0 + (-1.0_f64).exp()).ln(), (1.0 + 1.0_f64.exp()).ln());
        assert!((loss(&[1.0, 0.0]) - right / 10.0).abs() < 1e-12);
        assert!((loss(&[1.0, 1.0]) - (right + wrong) / 20.0).abs() < 1e-12);
        assert_eq!(loss(&[0.0, 0.0]), 0.0);
    }
}
