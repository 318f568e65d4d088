use tch::{Device, IndexOp, Tensor};
use torch_ext::layers::linear;
use torch_ext::{custom_gradient, with_tf32_products};

use crate::{SMALLEST_NORM, full_precision};

/// Up to so many entries of the affinities of a whole batch, one product over the batch is cheaper than many over its
/// samples.
const SMALL_BATCH: i64 = 1 << 19;

/// Rows of a sample's affinities that are in memory at once.
const BLOCK: i64 = 256;

/// `mean over b, i of || (1 - A_ij) over the partners j of i ||` with `A_ij = softmax_j (cos(f_i, f_j) / temperature)`,
/// differentiable in the features.
///
/// With `P_ij = exp((cos(f_i, f_j) - 1) / temperature)`, which is symmetric, and `S_i = sum_j P_ij`, A is P / S, and the
/// derivative by the cosines is, times the temperature,
///
/// ```text
/// H_ij = w_i P_ij - q_ij,   q_ij = A_ij (1 - A_ij) / ||...|| at partners and 0 elsewhere,   w_i = sum_j q_ij / S_i
/// ```
///
/// so w and q are all that the forward pass keeps. The gradient by the unit vectors E is `(H + H^T) E`, in which
/// `H + H^T = (w_i + w_j) P_ij - q_ij - q_ji` is computed by blocks of rows, each in one go. Where few rows have partners
/// and most w are zero, `H E` and `H^T E` of these rows are cheaper. Second derivatives are not defined.
///
/// - features: float32 or float64 `[batch, C, N]`, not negative; partners: int64 `[batch, N, k]`, -1 for none
/// - mixed: whether a GPU may round the products' operands to TF32: in mixed precision, whose features have no more digits
pub(crate) fn mean_gap(features: &Tensor, partners: &Tensor, temperature: f64, mixed: bool) -> Tensor {
    let affinities =
        Affinities { features: features.detach(), partners: partners.shallow_clone(), temperature, mixed };
    let (value, pulls) = tch::no_grad(|| affinities.mean_gap());
    custom_gradient(&[features], value, move |by_value| {
        let _guard = full_precision(affinities.features.device());
        vec![tch::no_grad(|| affinities.gradient(&pulls, by_value))]
    })
}

struct Affinities {
    features: Tensor,
    partners: Tensor,
    temperature: f64,
    mixed: bool,
}

/// Unit vectors, and the lengths they had.
struct Units {
    /// E, `[batch, N, C]`.
    rows: Tensor,
    /// `[batch, N, 1]`.
    norms: Tensor,
}

/// What the gradient needs of the forward pass; zero for rows without partner.
struct Pulls {
    /// q at the partners, `[batch, N, k]`.
    at_partners: Tensor,
    /// w, `[batch, N, 1]`.
    on_all: Tensor,
}

/// The rows of a sample to compute.
enum Rows {
    All,
    /// Those with a partner, int64, not empty.
    Some(Tensor),
}

/// Starts and lengths of blocks of `n` rows.
fn blocks(n: i64, block: i64) -> impl Iterator<Item = (i64, i64)> {
    (0..n).step_by(block.max(1) as usize).map(move |start| (start, block.min(n - start)))
}

impl Affinities {
    /// (batch, C, N).
    fn sizes(&self) -> (i64, i64, i64) {
        let size = self.features.size();
        (size[0], size[1], size[2])
    }

    /// Whether all samples go through together.
    fn at_once(&self) -> bool {
        let (b, _, n) = self.sizes();
        // Reading how many rows have partners would stop a GPU's queue; there, all rows of all samples are computed.
        self.features.device() != Device::Cpu || b * n * n <= SMALL_BATCH
    }

    /// Starts and lengths of the runs of samples that go through together.
    fn runs(&self) -> impl Iterator<Item = (i64, i64)> + use<> {
        let (b, _, _) = self.sizes();
        blocks(b, if self.at_once() { b } else { 1 })
    }

    /// Starts and lengths of the blocks of rows, when all are computed.
    fn row_blocks(&self) -> impl Iterator<Item = (i64, i64)> + use<> {
        let (_, _, n) = self.sizes();
        blocks(n, if self.at_once() { n } else { BLOCK })
    }

    /// None where no row has a partner.
    fn rows(&self, sample: i64) -> Option<Rows> {
        if self.at_once() {
            return Some(Rows::All);
        }
        let rows = self.partners.i((sample, .., 0)).ge(0).nonzero().squeeze_dim(1);
        // All rows cost the gradient two products of N x N, these cost three of rows x N.
        match rows.size()[0] {
            0 => None,
            n if 3 * n >= 2 * self.sizes().2 => Some(Rows::All),
            _ => Some(Rows::Some(rows)),
        }
    }

    /// Memory for the unit vectors of n samples.
    fn room(&self, n: i64) -> Tensor {
        let (_, c, places) = self.sizes();
        Tensor::empty([n, places, c], (self.features.kind(), self.features.device()))
    }

    /// - rows: `[n, N, C]`, memory for the unit vectors of the samples from `first` on
    fn units(&self, first: i64, mut rows: Tensor) -> Units {
        // A position's channels side by side: sums over them are several times faster.
        fill_swapped(&rows, &self.features.narrow(0, first, rows.size()[0]));
        let norms = rows.norm_scalaropt_dim(2.0, [2].as_slice(), true);
        let _ = rows.g_div_(&norms.clamp_min(SMALLEST_NORM));
        Units { rows, norms }
    }

    /// Products `[n, a, c]` of `[n, a, b]` and `[n, b, c]`.
    fn times(&self, left: &Tensor, right: &Tensor) -> Tensor {
        if left.size()[0] == 1 {
            return linear(&left.i(0), &right.i(0).transpose(0, 1), None).unsqueeze(0);
        }
        let product = with_tf32_products(self.mixed, || left.bmm(right));
        product.unwrap_or_else(|error| panic!("{error}"))
    }

    /// P of some unit vectors `[n, rows, C]` with all `[n, N, C]` of their samples, `[n, rows, N]`.
    fn powers(&self, some: &Tensor, all: &Tensor) -> Tensor {
        let mut cosines = self.times(some, &all.transpose(1, 2));
        // At most 0, whatever the temperature.
        cosines -= 1.0;
        if self.temperature != 1.0 {
            cosines /= self.temperature;
        }
        cosines.exp_()
    }

    fn mean_gap(&self) -> (Tensor, Pulls) {
        let (b, _, n) = self.sizes();
        let place = (self.features.kind(), self.features.device());
        let pulls = Pulls {
            at_partners: Tensor::zeros([b, n, self.partners.size()[2]], place),
            on_all: Tensor::zeros([b, n, 1], place),
        };
        let mut sum = Tensor::zeros([], place);
        for (first, n_samples) in self.runs() {
            let of_run = |xs: &Tensor| xs.narrow(0, first, n_samples);
            let (partners, at_partners, on_all) =
                (of_run(&self.partners), of_run(&pulls.at_partners), of_run(&pulls.on_all));
            let Some(rows) = self.rows(first) else { continue };
            let units = self.units(first, self.room(n_samples)).rows;
            match rows {
                Rows::All => {
                    for (start, length) in self.row_blocks() {
                        let part = |xs: &Tensor| xs.narrow(1, start, length);
                        let gaps = gaps(&self.powers(&part(&units), &units), &part(&partners));
                        part(&at_partners).copy_(&gaps.at_partners);
                        part(&on_all).copy_(&gaps.on_all);
                        sum += gaps.norm.sum(None);
                    }
                }
                Rows::Some(rows) => {
                    for rows in rows.split(BLOCK, 0) {
                        let part = |xs: &Tensor| xs.index_select(1, &rows);
                        let gaps = gaps(&self.powers(&part(&units), &units), &part(&partners));
                        let _ = at_partners.shallow_clone().index_copy_(1, &rows, &gaps.at_partners);
                        let _ = on_all.shallow_clone().index_copy_(1, &rows, &gaps.on_all);
                        sum += gaps.norm.sum(None);
                    }
                }
            }
        }
        (sum / (b * n) as f64, pulls)
    }

    /// - by_value: the incoming derivative, a scalar; result like the features
    fn gradient(&self, pulls: &Pulls, by_value: &Tensor) -> Tensor {
        let (b, c, n) = self.sizes();
        let gradient = Tensor::empty([b, c, n], (self.features.kind(), self.features.device()));
        let scale = by_value / ((b * n) as f64 * self.temperature);
        for (first, n_samples) in self.runs() {
            let of_run = |xs: &Tensor| xs.narrow(0, first, n_samples);
            let mut share = of_run(&gradient);
            let Some(rows) = self.rows(first) else {
                let _ = share.zero_();
                continue;
            };
            // Until the gradient is known, its memory holds the unit vectors.
            let units = self.units(first, share.view([n_samples, n, c]));
            let at = of_run(&self.partners).clamp_min(0);
            let pulls = Pulls { at_partners: of_run(&pulls.at_partners), on_all: of_run(&pulls.on_all) };
            let by_units = match rows {
                Rows::All => self.by_all_rows(&units.rows, &at, &pulls),
                Rows::Some(rows) => self.by_some_rows(&units.rows, &at, &pulls, &rows),
            };
            for (start, length) in self.row_blocks() {
                let part = |xs: &Tensor| xs.narrow(1, start, length);
                let units = Units { rows: part(&units.rows), norms: part(&units.norms) };
                through_norms(part(&by_units), units, &scale);
            }
            fill_swapped(&share, &by_units);
        }
        gradient
    }

    /// `(H + H^T) E`, `[n, N, C]`.
    ///
    /// - units: E, `[n, N, C]`; at: the partners, `[n, N, k]`, anything where there is none
    fn by_all_rows(&self, units: &Tensor, at: &Tensor, pulls: &Pulls) -> Tensor {
        let by_units = self.room(units.size()[0]);
        for (start, length) in self.row_blocks() {
            let part = |xs: &Tensor| xs.narrow(1, start, length);
            let mut both = self.powers(&part(units), units);
            both *= part(&pulls.on_all) + pulls.on_all.transpose(1, 2);
            let _ = both.scatter_add_(2, &part(at), &-part(&pulls.at_partners));
            // The same of the transposed: rows whose partners are in this block.
            let here = at - start;
            let inside = here.ge(0).logical_and(&here.lt(length)).to_kind(both.kind());
            let pulled = -(&pulls.at_partners * inside).transpose(1, 2);
            let _ = both.scatter_add_(1, &here.clamp(0, length - 1).transpose(1, 2), &pulled);
            part(&by_units).copy_(&self.times(&both, units));
        }
        by_units
    }

    /// The same from the rows of one sample that have partners.
    ///
    /// - rows: int64
    fn by_some_rows(&self, units: &Tensor, at: &Tensor, pulls: &Pulls, rows: &Tensor) -> Tensor {
        let of_block = |rows: Tensor| {
            let part = |xs: &Tensor| xs.index_select(1, &rows);
            let own = part(units);
            let mut one_way = self.powers(&own, units);
            one_way *= part(&pulls.on_all);
            let _ = one_way.scatter_add_(2, &part(at), &-part(&pulls.at_partners));
            let mut by_units = self.times(&one_way.transpose(1, 2), &own);
            by_units.index_add_(1, &rows, &self.times(&one_way, units))
        };
        let blocks = rows.split(BLOCK, 0).into_iter().map(of_block);
        blocks.reduce(|sum, block| sum + block).unwrap_or_else(|| units.zeros_like())
    }
}

/// From the gradient by the unit vectors to that by the features, in place of both.
///
/// - by_units: `[n, rows, C]`
fn through_norms(mut by_units: Tensor, units: Units, scale: &Tensor) {
    let Units { mut rows, norms } = units;
    let along = Tensor::linalg_vecdot(&by_units, &rows, 2).unsqueeze(2);
    rows *= along * norms.gt(SMALLEST_NORM).to_kind(rows.kind());
    by_units -= rows;
    by_units *= norms.clamp_min(SMALLEST_NORM).reciprocal() * scale;
    // A position without features has no direction; the derivative there is taken as zero.
    let _ = by_units.masked_fill_(&norms.eq(0.0), 0.0);
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

/// What rows lack to their partners.
struct Gaps {
    /// `|| 1 - A ||` over the partners, `[n, rows, 1]`.
    norm: Tensor,
    /// q, `[n, rows, k]`.
    at_partners: Tensor,
    /// w, `[n, rows, 1]`.
    on_all: Tensor,
}

/// - powers: P, `[n, rows, N]`; partners: `[n, rows, k]`
fn gaps(powers: &Tensor, partners: &Tensor) -> Gaps {
    let smallest = f64::from(f32::MIN_POSITIVE);
    let sums = powers.sum_dim_intlist([2].as_slice(), true, None).clamp_min(smallest);
    let affinity = powers.gather(2, &partners.clamp_min(0), false) / &sums;
    let gap = (1.0_f64 - &affinity) * partners.ge(0).to_kind(powers.kind());
    let norm = gap.norm_scalaropt_dim(2.0, [2].as_slice(), true);
    // d norm / d A_ij = -gap_ij / norm, zero where the norm is.
    let at_partners = gap / norm.clamp_min(smallest) * affinity;
    let on_all = at_partners.sum_dim_intlist([2].as_slice(), true, None) / sums;
    Gaps { norm, at_partners, on_all }
}
