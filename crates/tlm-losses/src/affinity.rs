use tch::{Device, IndexOp, Tensor};

use crate::SMALLEST_NORM;

/// Up to so many entries of the affinities of a whole batch, one product over the batch is cheaper than many over its
/// samples.
const SMALL_BATCH: i64 = 1 << 19;

/// `mean over b, i of || (1 - A_ij) over the partners j of i ||` with `A_ij = softmax_j (cos(f_i, f_j) / temperature)`,
/// differentiable in the features.
///
/// The gradient is worked out beside the value, a sample at a time, so that backpropagation needs no N x N matrix:
/// with `H_ij = dL/dcos_ij`, the gradient by the unit vectors E is `(H + H^T) E`, and rows without a partner are zero in
/// H. Second derivatives are not defined.
///
/// - features: float32 or float64 `[batch, C, N]`; partners: int64 `[batch, N, k]`, -1 for none
pub(crate) fn mean_gap(features: &Tensor, partners: &Tensor, temperature: f64) -> Tensor {
    let (value, gradient) =
        tch::no_grad(|| with_gradient(&features.detach(), partners, temperature, features.requires_grad()));
    let Some(gradient) = gradient else { return value };
    // Linear in the features with just this gradient, and zero.
    let linear = features.flatten(0, -1).dot(&gradient.flatten(0, -1));
    value + (&linear - linear.detach())
}

fn with_gradient(
    features: &Tensor,
    partners: &Tensor,
    temperature: f64,
    wanted: bool,
) -> (Tensor, Option<Tensor>) {
    let (b, n) = (features.size()[0], features.size()[2]);
    let scale = 1.0 / (b * n) as f64;
    let gradient = wanted.then(|| features.zeros_like());
    // Reading how many rows have partners would stop a GPU's queue; there, all rows are computed.
    let at_once = features.device() != Device::Cpu || b * n * n <= SMALL_BATCH;
    let step = if at_once { b } else { 1 };
    let mut sum = Tensor::zeros([], (features.kind(), features.device()));
    for first in (0..b).step_by(step as usize) {
        let own = features.narrow(0, first, step);
        let norms = own.norm_scalaropt_dim(2.0, [1].as_slice(), true);
        let lengths = norms.clamp_min(SMALLEST_NORM);
        let units = &own / &lengths;
        let partners = partners.narrow(0, first, step);
        let rows = (!at_once).then(|| rows_with_partner(&partners));
        let (part, by_units) = match rows {
            Some(rows) if rows.size()[0] == 0 => continue,
            // Three products over the chosen rows, or two over all.
            Some(rows) if 3 * rows.size()[0] < 2 * n => {
                chosen_rows(&units.i(0), &partners.i(0), &rows, temperature)
            }
            _ => all_rows(&units, &partners, temperature),
        };
        sum += part;
        if let Some(gradient) = &gradient {
            let radial = (&by_units * &units).sum_dim_intlist([1].as_slice(), true, None)
                * norms.gt(SMALLEST_NORM).to_kind(features.kind());
            let mut by_features = by_units;
            by_features -= units * radial;
            let _ = by_features.g_mul_(&(lengths.reciprocal() * (scale / temperature)));
            // A position without features has no direction; the derivative there is taken as zero.
            let _ = by_features.masked_fill_(&norms.eq(0.0), 0.0);
            gradient.narrow(0, first, step).copy_(&by_features);
        }
    }
    (sum * scale, gradient)
}

/// int64 `[rows]` of partners `[1, N, k]`.
fn rows_with_partner(partners: &Tensor) -> Tensor {
    partners.i((0, .., 0)).ge(0).nonzero().squeeze_dim(1)
}

/// Sum over all rows, and `(H + H^T) E` times the temperature.
///
/// - units: E^T, `[batch, C, N]`; partners: `[batch, N, k]`; gradient like units
fn all_rows(units: &Tensor, partners: &Tensor, temperature: f64) -> (Tensor, Tensor) {
    let affinity = affinities(units.transpose(1, 2).bmm(units), temperature);
    let (sum, by_cosines) = gaps(affinity, partners);
    let both_ways = &by_cosines + by_cosines.transpose(1, 2);
    (sum, units.bmm(&both_ways))
}

/// The same for one sample, touching only the rows that have a partner.
///
/// - units: `[C, N]`; partners: `[N, k]`; rows: int64 `[rows]`; gradient `[1, C, N]`
fn chosen_rows(units: &Tensor, partners: &Tensor, rows: &Tensor, temperature: f64) -> (Tensor, Tensor) {
    let own = units.index_select(1, rows); // C rows
    let affinity = affinities(own.transpose(0, 1).matmul(units), temperature);
    let (sum, by_cosines) = gaps(affinity, &partners.index_select(0, rows));
    let mut gradient = own.matmul(&by_cosines);
    let _ = gradient.index_add_(1, rows, &units.matmul(&by_cosines.transpose(0, 1)));
    (sum, gradient.unsqueeze(0))
}

fn affinities(mut cosines: Tensor, temperature: f64) -> Tensor {
    if temperature != 1.0 {
        cosines /= temperature;
    }
    cosines.softmax(-1, None)
}

/// Sum of the rows' norms, and their derivative by the cosines times the temperature.
///
/// - affinity: A, `[..., rows, N]`; partners: `[..., rows, k]`
fn gaps(affinity: Tensor, partners: &Tensor) -> (Tensor, Tensor) {
    let kind = affinity.kind();
    let at = partners.clamp_min(0);
    let held = affinity.gather(-1, &at, false);
    let gap = (1.0_f64 - &held) * partners.ge(0).to_kind(kind);
    let norm = gap.norm_scalaropt_dim(2.0, [-1].as_slice(), true);
    // d norm / d A_ij = -gap_ij / norm, zero where the norm is.
    let pull = gap / norm.clamp_min(f64::from(f32::MIN_POSITIVE)) * held;
    let mut by_cosines = affinity;
    let _ = by_cosines.g_mul_(&pull.sum_dim_intlist([-1].as_slice(), true, None));
    let _ = by_cosines.scatter_add_(-1, &at, &-pull);
    (norm.sum(None), by_cosines)
}
