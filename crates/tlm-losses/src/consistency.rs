use tch::{IndexOp, Kind, Tensor};

use crate::{unit, wide};

/// Text affinity above which a pair of positions counts as consistent.
pub const AFFINITY_THRESHOLD: f64 = 0.7;

/// The consistency loss of one level and what it selected.
#[derive(Debug)]
pub struct ConsistencyLoss {
    /// The loss, a scalar; exactly 0 without gradient when no position has a partner.
    pub loss: Tensor,
    /// int64 `[batch, N]`: the partner of each position, -1 where there is none.
    pub partners: Tensor,
}

/// Contextual pairwise consistency learning, CPCL, of one level (specification, section 8).
///
/// ```text
/// A_ij = softmax_j cos(f_i, f_j)              visual affinity
/// R_ij = softmax_j (s_i s_j), s_i = f_i . t   text affinity
/// M_ij = 1 if R_ij > 0.7, otherwise 0         no gradient
/// L    = mean over b, i of || A_i. * M_i. - M_i. ||
/// ```
///
/// Computed in its closed form: a row of R sums to 1, so at most one entry exceeds 0.7 (quirk Q8). For s_i > 0 it
/// can only be the position of the largest s, for s_i < 0 that of the smallest, and it does when
/// `sum_j exp(s_i s_j - s_i s_j*) < 1 / 0.7`. With that partner j* the row contributes `1 - A_ij*`, all other rows
/// contribute 0.
///
/// - features: `[batch, C, H, W]`, not negative (all zero at some positions)
/// - sentence: `[batch, C]`; gets no gradient
pub fn consistency_loss(features: &Tensor, sentence: &Tensor) -> ConsistencyLoss {
    let features = wide(features).flatten(2, 3); // b c n
    let (b, n) = (features.size()[0], features.size()[2]);
    let partners = tch::no_grad(|| text_partners(&features, &wide(sentence)));
    // A position without features has no direction. Its derivative through the clamped norm is 1e12 times the
    // incoming one, which overflows in half precision behind this loss; it is 0 here.
    let alive = features.abs().amax([1].as_slice(), true).gt(0.0);
    let features = features.where_self(&alive, &features.detach());
    let directions = unit(&features, 1).transpose(1, 2); // b n c
    let terms =
        if n <= DENSE_POSITIONS { dense(&directions, &partners) } else { by_sample(&directions, &partners) };
    let loss = match terms {
        Some(sum) => sum / (b * n) as f64,
        None => Tensor::zeros([], (features.kind(), features.device())),
    };
    ConsistencyLoss { loss, partners }
}

/// Up to so many positions one product over the whole batch is cheaper than many over its samples.
const DENSE_POSITIONS: i64 = 256;

/// Sum over all rows with a partner of `1 - A_ij*`; `None` if no row has one.
///
/// - directions: unit vectors, `[batch, N, C]`; partners: `[batch, N]`, -1 where there is none
fn dense(directions: &Tensor, partners: &Tensor) -> Option<Tensor> {
    let rows = partners.ge(0);
    if i64::try_from(rows.any()).unwrap_or(0) == 0 {
        return None;
    }
    let cosines = directions.bmm(&directions.transpose(1, 2));
    let affinity =
        cosines.softmax(-1, None).gather(2, &partners.clamp_min(0).unsqueeze(2), false).squeeze_dim(2);
    Some(((1.0_f64 - affinity) * rows.to_kind(directions.kind())).sum(None))
}

/// The same, touching only the rows that have a partner.
fn by_sample(directions: &Tensor, partners: &Tensor) -> Option<Tensor> {
    let mut terms = Vec::new();
    for sample in 0..directions.size()[0] {
        let chosen = partners.i(sample).ge(0).nonzero().squeeze_dim(1);
        if chosen.size()[0] == 0 {
            continue;
        }
        let own = directions.i(sample);
        let cosines = own.index_select(0, &chosen).matmul(&own.transpose(0, 1)); // rows, n
        let partner = partners.i(sample).index_select(0, &chosen).unsqueeze(1);
        let affinity = cosines.softmax(-1, None).gather(1, &partner, false);
        terms.push((1.0_f64 - affinity).sum(None));
    }
    (!terms.is_empty()).then(|| Tensor::stack(&terms, 0).sum(None))
}

/// - features: `[batch, C, N]`; sentence: `[batch, C]`; result int64 `[batch, N]`, -1 for no partner
fn text_partners(features: &Tensor, sentence: &Tensor) -> Tensor {
    let response = sentence.unsqueeze(1).bmm(features).squeeze_dim(1); // b n
    let (largest, at_largest) = response.max_dim(1, true);
    let (smallest, at_smallest) = response.min_dim(1, true);
    let upwards = response.ge(0.0);
    let extreme = largest.where_self(&upwards, &smallest);
    let candidate = at_largest.where_self(&upwards, &at_smallest);
    // exponent[b, i, j] = s_i (s_j - s_j*), never positive
    let exponent = response.unsqueeze(2) * (response.unsqueeze(1) - extreme.unsqueeze(2));
    let mass = exponent.exp().sum_dim_intlist([2].as_slice(), false, None);
    let none = Tensor::full_like(&candidate, -1).to_kind(Kind::Int64);
    candidate.where_self(&mass.reciprocal().gt(AFFINITY_THRESHOLD), &none)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    /// The definition as it stands, with its N x N matrices.
    fn by_definition(features: &Tensor, sentence: &Tensor) -> f64 {
        let f = features.flatten(2, 3);
        let directions = unit(&f, 1);
        let visual = directions.transpose(1, 2).bmm(&directions).softmax(-1, None);
        let response = sentence.unsqueeze(1).bmm(&f);
        let text = response.transpose(1, 2).bmm(&response).softmax(-1, None);
        let mask = text.gt(AFFINITY_THRESHOLD).to_kind(Kind::Double);
        let rows = (visual * &mask - mask).norm_scalaropt_dim(2.0, [2].as_slice(), false);
        f64::try_from(rows.mean(None)).unwrap()
    }

    #[test]
    fn the_closed_form_equals_the_definition() {
        tch::manual_seed(1);
        let features = (Tensor::randn([2, 4, 3, 5], (Kind::Double, Device::Cpu)) * 2.0).relu();
        for scale in [0.1, 1.0, 10.0] {
            let sentence = Tensor::randn([2, 4], (Kind::Double, Device::Cpu)) * scale;
            let out = consistency_loss(&features, &sentence);
            let expected = by_definition(&features, &sentence);
            assert!((f64::try_from(out.loss).unwrap() - expected).abs() < 1e-14);
            let directions = unit(&features.flatten(2, 3), 1).transpose(1, 2);
            let sum = by_sample(&directions, &out.partners).map_or(0.0, |sum| f64::try_from(sum).unwrap());
            assert!((sum / 30.0 - expected).abs() < 1e-14);
        }
    }

    #[test]
    fn two_positions_by_hand() {
        // s = (3, 0): row 0 has R = softmax(9, 0), partner itself; row 1 is undecided (1/2, 1/2).
        let features = Tensor::from_slice(&[1.0, 0.0, 0.0, 1.0]).view([1, 2, 1, 2]).set_requires_grad(true);
        let sentence = Tensor::from_slice(&[3.0, 0.0]).view([1, 2]);
        let out = consistency_loss(&features, &sentence);
        assert_eq!(Vec::<i64>::try_from(out.partners.view([-1])).unwrap(), [0, -1]);
        let affinity = 1.0_f64.exp() / (1.0_f64.exp() + 1.0);
        assert!((f64::try_from(&out.loss).unwrap() - (1.0 - affinity) / 2.0).abs() < 1e-12);
    }

    #[test]
    fn positions_without_features_get_a_finite_gradient() {
        let features =
            Tensor::from_slice(&[5.0_f32, 0.0, 0.0, 0.0]).view([1, 2, 1, 2]).set_requires_grad(true);
        let out = consistency_loss(&features, &Tensor::from_slice(&[2.0_f32, 0.0]).view([1, 2]));
        out.loss.backward();
        let gradient = Vec::<f32>::try_from(features.grad().view([-1])).unwrap();
        assert!(gradient.iter().all(|value| value.is_finite()), "{gradient:?}");
    }
}
