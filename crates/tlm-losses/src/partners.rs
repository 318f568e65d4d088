use tch::{Kind, Tensor};

/// Partners of each position by the published rule: the position j with `R_ij > threshold`, where `R_i. = softmax_j (s_i s_j)`.
/// A row of R sums to 1, so with a threshold of at least 0.5 there is at most one (quirk Q8).
///
/// The only candidate j* is the position of the largest s if s_i >= 0, and that of the smallest s if s_i < 0. It is a partner
/// if `sum_j exp(s_i s_j - s_i s_j*) < 1 / threshold`. That sum falls as |s_i| grows, so the rows that pass are those beyond a
/// cutoff. A search over the sorted responses finds the cutoff in O(N sqrt(N)), without the N^2 entries of the matrix.
///
/// - responses: s, `[batch, N]`; result int64 `[batch, N, 1]`, -1 for no partner
pub(crate) fn above_threshold(responses: &Tensor, threshold: f64) -> Tensor {
    let b = responses.size()[0];
    let cutoff = cutoffs(&Tensor::cat(&[responses, &-responses], 0), threshold);
    let (upper, lower) = (cutoff.narrow(0, 0, b), cutoff.narrow(0, b, b));
    let upwards = responses.ge(0.0);
    let passes = responses.ge_tensor(&upper).where_self(&upwards, &(-responses).ge_tensor(&lower));
    let largest = responses.argmax(1, true);
    let candidate = largest.where_self(&upwards, &responses.argmin(1, true));
    candidate.masked_fill(&passes.logical_not(), -1).unsqueeze(2)
}

/// The smallest non-negative response whose row passes, `[batch, 1]`; infinite if no row passes.
///
/// In descending order of the responses, the rows up to some index pass. Two rounds find it: the first tests every `stride`th
/// row, the second the rows between two of those. A binary search tests fewer rows, but takes ten rounds of more than ten
/// kernel launches each, which is slow on a GPU.
fn cutoffs(responses: &Tensor, threshold: f64) -> Tensor {
    let n = responses.size()[1];
    let (sorted, _) = responses.sort(1, true);
    let below_top = (responses - sorted.narrow(1, 0, 1)).unsqueeze(1); // b 1 n
    // How many rows pass, among those with the given responses.
    let n_passing = |rows: &Tensor| {
        let mass = (rows.unsqueeze(2) * &below_top).exp().sum_dim_intlist([2].as_slice(), false, None);
        let passes = mass.reciprocal().gt(threshold).logical_and(&rows.ge(0.0));
        passes.sum_dim_intlist([1].as_slice(), true, Kind::Int64)
    };
    let stride = (((n + 1) as f64).sqrt().ceil() as i64).max(1);
    // Rows stride - 1, 2 stride - 1, ...
    let coarse = n_passing(&sorted.slice(1, stride - 1, n, stride)) * stride; // b 1
    let between = &coarse + Tensor::arange(stride - 1, (Kind::Int64, responses.device()));
    let beyond = between.ge(n);
    // A negative response never passes, so -1 marks rows that do not exist.
    let fine = sorted.gather(1, &between.clamp_max(n - 1), false).masked_fill(&beyond, -1.0);
    let count = coarse + n_passing(&fine);
    let last = sorted.gather(1, &(&count - 1).clamp_min(0), false);
    last.masked_fill(&count.eq(0), f64::INFINITY)
}

/// The `k` positions with the largest R_ij of each row: those of the largest s for s_i > 0, of the smallest for
/// s_i < 0. A row with s_i = 0 prefers no position and has none.
///
/// - responses: s, `[batch, N]`; result int64 `[batch, N, min(k, N)]`, -1 for no partner
pub(crate) fn strongest(responses: &Tensor, k: i64) -> Tensor {
    let n = responses.size()[1];
    let k = k.min(n);
    let side = |largest: bool| responses.topk(k, 1, largest, true).1.unsqueeze(1).expand([-1, n, k], false);
    let responses = responses.unsqueeze(2);
    side(true).where_self(&responses.gt(0.0), &side(false)).masked_fill(&responses.eq(0.0), -1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    /// The rule by its definition, with the N x N matrix.
    fn by_definition(responses: &Tensor, threshold: f64) -> Tensor {
        let affinity = (responses.unsqueeze(2) * responses.unsqueeze(1)).softmax(-1, None);
        let (largest, at) = affinity.max_dim(2, true);
        at.masked_fill(&largest.le(threshold), -1)
    }

    #[test]
    fn the_search_equals_the_definition() {
        tch::manual_seed(7);
        for n in [1, 2, 3, 4, 8, 15, 16, 33, 64] {
            for scale in [0.0, 0.3, 1.0, 3.0, 30.0] {
                for shift in [-2.0, 0.0, 2.0] {
                    let responses = Tensor::randn([5, n], (Kind::Double, Device::Cpu)) * scale + shift;
                    for threshold in [0.5, 0.7, 0.95] {
                        let (found, expected) =
                            (above_threshold(&responses, threshold), by_definition(&responses, threshold));
                        assert!(found.equal(&expected), "n {n}, scale {scale}, shift {shift}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_strongest_by_hand() {
        let responses = Tensor::from_slice(&[2.0, 0.0, -1.0, 5.0]).view([1, 4]);
        let partners = Vec::<i64>::try_from(strongest(&responses, 2).view([-1])).unwrap();
        assert_eq!(partners, [3, 0, -1, -1, 2, 1, 3, 0]);
        assert_eq!(strongest(&responses, 9).size(), [1, 4, 4]);
    }
}
