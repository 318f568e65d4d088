use tch::{Device, IndexOp, Tensor};
use torch_ext::custom_gradient;
use torch_ext::layers::linear;

use crate::{SMALLEST_NORM, full_precision};

/// Up to so many entries of the affinities of a whole batch, one product over the batch is cheaper than many over its
/// samples.
const SMALL_BATCH: i64 = 1 << 19;

/// `mean over b, i of || (1 - A_ij) over the partners j of i ||` with `A_ij = softmax_j (cos(f_i, f_j) / temperature)`,
/// differentiable in the features.
///
/// Neither pass keeps anything but the partners: the backward pass computes the affinities again, one sample at a time and
/// only of rows with a partner. With `H_ij = dL/dcos_ij`, which is zero in rows without one, the gradient by the unit
/// vectors E is `(H + H^T) E`. Second derivatives are not defined.
///
/// - features: float32 or float64 `[batch, C, N]`; partners: int64 `[batch, N, k]`, -1 for none
pub(crate) fn mean_gap(features: &Tensor, partners: &Tensor, temperature: f64) -> Tensor {
    let kept = Affinities { features: features.detach(), partners: partners.shallow_clone(), temperature };
    let value = tch::no_grad(|| kept.mean_gap());
    custom_gradient(&[features], value, move |by_value| {
        let _guard = full_precision(kept.features.device());
        vec![tch::no_grad(|| kept.gradient(by_value))]
    })
}

struct Affinities {
    features: Tensor,
    partners: Tensor,
    temperature: f64,
}

/// Unit vectors, and the lengths they had.
struct Units {
    /// E, `[batch, N, C]`.
    rows: Tensor,
    /// `[batch, N, 1]`.
    norms: Tensor,
}

impl Affinities {
    /// Samples that go through together.
    fn step(&self) -> i64 {
        let (b, n) = (self.features.size()[0], self.features.size()[2]);
        // Reading how many rows have partners would stop a GPU's queue; there, all rows of all samples are computed.
        let at_once = self.features.device() != Device::Cpu || b * n * n <= SMALL_BATCH;
        if at_once { b } else { 1 }
    }

    fn starts(&self) -> impl Iterator<Item = i64> + use<> {
        (0..self.features.size()[0]).step_by(self.step().max(1) as usize)
    }

    fn units(&self, first: i64) -> Units {
        // A position's channels side by side: sums over them are several times faster.
        let mut rows = swapped(&self.features.narrow(0, first, self.step()));
        let norms = rows.norm_scalaropt_dim(2.0, [2].as_slice(), true);
        let _ = rows.g_div_(&norms.clamp_min(SMALLEST_NORM));
        Units { rows, norms }
    }

    /// The rows of a sample that have a partner, int64 `[rows]`; none if all are taken.
    fn rows(&self, first: i64) -> Option<Tensor> {
        (self.step() == 1).then(|| self.partners.i((first, .., 0)).ge(0).nonzero().squeeze_dim(1))
    }

    fn mean_gap(&self) -> Tensor {
        let (b, n) = (self.features.size()[0], self.features.size()[2]);
        let mut sum = Tensor::zeros([], (self.features.kind(), self.features.device()));
        for first in self.starts() {
            let partners = self.partners.narrow(0, first, self.step());
            sum += match self.rows(first) {
                None => gaps(&self.of_all(&self.units(first).rows), &partners).norm.sum(None),
                Some(rows) if rows.size()[0] == 0 => continue,
                Some(rows) => {
                    let units = self.units(first).rows.i(0);
                    let affinity = self.of(&units.index_select(0, &rows), &units);
                    gaps(&affinity, &partners.i(0).index_select(0, &rows)).norm.sum(None)
                }
            };
        }
        sum / (b * n) as f64
    }

    /// Affinities of some unit vectors `[rows, C]` with all `[N, C]`.
    fn of(&self, some: &Tensor, all: &Tensor) -> Tensor {
        softmax(linear(some, all, None), self.temperature)
    }

    /// Affinities of all unit vectors `[batch, N, C]` of a batch, `[batch, N, N]`.
    fn of_all(&self, units: &Tensor) -> Tensor {
        softmax(units.bmm(&units.transpose(1, 2)), self.temperature)
    }

    /// - by_value: the incoming derivative, a scalar; result like the features
    fn gradient(&self, by_value: &Tensor) -> Tensor {
        let (b, n) = (self.features.size()[0], self.features.size()[2]);
        // Memory that nothing is written to yet is not there yet: the last sample's share comes after its affinities have gone.
        let gradient = self.features.empty_like();
        let scale = by_value / ((b * n) as f64 * self.temperature);
        for first in self.starts() {
            let partners = self.partners.narrow(0, first, self.step());
            let rows = self.rows(first);
            if rows.as_ref().is_some_and(|rows| rows.size()[0] == 0) {
                let _ = gradient.narrow(0, first, self.step()).zero_();
                continue;
            }
            let Units { rows: mut units, norms } = self.units(first);
            let mut by_units = match rows {
                None => both_ways(by_cosines(self.of_all(&units), &partners)).bmm(&units),
                Some(rows) => self.by_units(&units.i(0), &partners.i(0), &rows).unsqueeze(0),
            };
            let along = (&by_units * &units).sum_dim_intlist([2].as_slice(), true, None);
            let _ = units.g_mul_(&(along * norms.gt(SMALLEST_NORM).to_kind(self.features.kind())));
            by_units -= units;
            let _ = by_units.g_mul_(&(norms.clamp_min(SMALLEST_NORM).reciprocal() * &scale));
            // A position without features has no direction; the derivative there is taken as zero.
            let _ = by_units.masked_fill_(&norms.eq(0.0), 0.0);
            fill_swapped(&gradient.narrow(0, first, self.step()), &by_units);
        }
        gradient
    }

    /// `(H + H^T) E` of one sample, times the temperature: one product over all rows, or two over some.
    ///
    /// - units: E, `[N, C]`; partners: `[N, k]`; rows: int64 `[rows]`; result `[N, C]`
    fn by_units(&self, units: &Tensor, partners: &Tensor, rows: &Tensor) -> Tensor {
        let columns = units.transpose(0, 1);
        if 3 * rows.size()[0] >= 2 * units.size()[0] {
            let one_way = by_cosines(self.of(units, units), partners).unsqueeze(0);
            return linear(&both_ways(one_way).squeeze_dim(0), &columns, None);
        }
        let own = units.index_select(0, rows); // rows c
        let by_cosines = by_cosines(self.of(&own, units), &partners.index_select(0, rows));
        let by_own = linear(&by_cosines, &columns, None);
        let mut by_all = linear(&by_cosines.transpose(0, 1), &own.transpose(0, 1), None);
        let _ = by_all.index_add_(0, rows, &by_own);
        by_all
    }
}

fn softmax(mut cosines: Tensor, temperature: f64) -> Tensor {
    if temperature != 1.0 {
        cosines /= temperature;
    }
    // In the memory of the cosines.
    cosines.internal_softmax_out(&cosines, -1, false)
}

/// Copies `[batch, a, b]` to `[batch, b, a]`. libtorch transposes a single matrix in blocks, which is far faster than what
/// it does for several.
fn fill_swapped(to: &Tensor, from: &Tensor) {
    if from.size()[0] == 1 {
        to.i(0).copy_(&from.i(0).transpose(0, 1));
    } else {
        to.shallow_clone().copy_(&from.transpose(1, 2));
    }
}

/// The last two axes exchanged, in memory too.
fn swapped(xs: &Tensor) -> Tensor {
    let &[batch, rows, columns] = xs.size().as_slice() else {
        panic!("expected three axes, not {:?}", xs.size())
    };
    let swapped = Tensor::empty([batch, columns, rows], (xs.kind(), xs.device()));
    fill_swapped(&swapped, xs);
    swapped
}

/// Side of the tiles that a matrix is added to its transpose in.
const TILE: i64 = 256;

/// H + H^T, `[batch, N, N]`, in the memory of H.
fn both_ways(sum: Tensor) -> Tensor {
    let n = sum.size()[1];
    let tile =
        |row: i64, column: i64| sum.narrow(1, row, TILE.min(n - row)).narrow(2, column, TILE.min(n - column));
    let starts = || (0..n).step_by(TILE as usize);
    for row in starts() {
        for column in starts().filter(|&column| column >= row) {
            let mut upper = tile(row, column);
            // Tiles are copied to be whole in memory, which transposing needs to be fast.
            let both = upper.contiguous() + swapped(&tile(column, row).contiguous());
            upper.copy_(&both);
            if column > row {
                tile(column, row).copy_(&swapped(&both));
            }
        }
    }
    sum
}

/// What rows lack to their partners.
struct Gaps {
    /// Partners' places, 0 where there is none.
    at: Tensor,
    /// A at the partners, `[.., rows, k]`.
    held: Tensor,
    /// 1 - A at the partners, 0 where there is none.
    gap: Tensor,
    /// Of each row's gaps, `[.., rows, 1]`.
    norm: Tensor,
}

/// - affinity: A, `[.., rows, N]`; partners: `[.., rows, k]`
fn gaps(affinity: &Tensor, partners: &Tensor) -> Gaps {
    let at = partners.clamp_min(0);
    let held = affinity.gather(-1, &at, false);
    let gap = (1.0_f64 - &held) * partners.ge(0).to_kind(affinity.kind());
    let norm = gap.norm_scalaropt_dim(2.0, [-1].as_slice(), true);
    Gaps { at, held, gap, norm }
}

/// Derivative of the rows' norms by the cosines, times the temperature; like the affinity, whose memory it takes.
fn by_cosines(affinity: Tensor, partners: &Tensor) -> Tensor {
    let Gaps { at, held, gap, norm } = gaps(&affinity, partners);
    // d norm / d A_ij = -gap_ij / norm, zero where the norm is.
    let pull = gap / norm.clamp_min(f64::from(f32::MIN_POSITIVE)) * held;
    let mut by_cosines = affinity;
    let _ = by_cosines.g_mul_(&pull.sum_dim_intlist([-1].as_slice(), true, None));
    let _ = by_cosines.scatter_add_(-1, &at, &-pull);
    by_cosines
}
