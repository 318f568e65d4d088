use tch::{Device, IndexOp, Tensor};
use torch_ext::layers::linear;
use torch_ext::{custom_gradient, with_tf32_products};

use crate::{SMALLEST_NORM, full_precision};

/// Number of affinities in a batch (batch * N * N) up to which one batched matrix product is cheaper than one per sample.
const SMALL_BATCH: i64 = 1 << 19;

/// Rows of a sample's affinity matrix that are in memory at once.
const BLOCK: i64 = 256;

/// `mean over b, i of || (1 - A_ij) over the partners j of i ||` with `A_ij = softmax_j (cos(f_i, f_j) / temperature)`,
/// differentiable in the features.
///
/// Let `P_ij = exp((cos(f_i, f_j) - 1) / temperature)`, which is symmetric, and `S_i = sum_j P_ij`. Then A = P / S, and the
/// gradient with respect to the cosines, times the temperature, is
///
/// ```text
/// H_ij = w_i P_ij - q_ij,   q_ij = A_ij (1 - A_ij) / ||...|| at partners and 0 elsewhere,   w_i = sum_j q_ij / S_i
/// ```
///
/// so the forward pass saves only w and q. The gradient with respect to the unit vectors E is `(H + H^T) E`. It is computed in
/// blocks of rows, with `H + H^T = (w_i + w_j) P_ij - q_ij - q_ji` formed for a whole block at once. If few rows have partners,
/// most w are zero, and `H E` and `H^T E` of these rows are cheaper. Second derivatives are not defined.
///
/// - features: float32 or float64 `[batch, C, N]`, not negative; partners: int64 `[batch, N, k]`, -1 for none
/// - mixed: whether mixed precision is on, in which case a GPU may use TF32 matrix products, since the features have no more
///   digits
pub(crate) fn mean_gap(features: &Tensor, partners: &Tensor, temperature: f64, mixed: bool) -> Tensor {
    let affinities =
        Affinities { features: features.detach(), partners: partners.shallow_clone(), temperature, mixed };
    let (value, saved) = tch::no_grad(|| affinities.mean_gap());
    custom_gradient(&[features], value, move |grad_loss| {
        let _guard = full_precision(affinities.features.device());
        vec![tch::no_grad(|| affinities.gradient(&saved, grad_loss))]
    })
}

struct Affinities {
    features: Tensor,
    partners: Tensor,
    temperature: f64,
    mixed: bool,
}

/// Unit vectors of the features, and the norms of the features.
struct Units {
    /// Unit vectors E, `[batch, N, C]`.
    rows: Tensor,
    /// Norms before normalisation, not clamped, `[batch, N, 1]`.
    norms: Tensor,
}

/// Tensors that the forward pass saves for the gradient; zero for rows without a partner.
struct Saved {
    /// q of the partners, `[batch, N, k]`.
    q: Tensor,
    /// w, `[batch, N, 1]`.
    w: Tensor,
}

/// The rows of a sample to compute.
enum Rows {
    All,
    /// Indices of the rows with a partner, int64, not empty.
    Some(Tensor),
}

/// Starts and lengths of blocks that cover `n` rows.
fn blocks(n: i64, block: i64) -> impl Iterator<Item = (i64, i64)> {
    (0..n).step_by(block.max(1) as usize).map(move |start| (start, block.min(n - start)))
}

impl Affinities {
    /// Sizes (batch, C, N) of the features.
    fn sizes(&self) -> (i64, i64, i64) {
        let size = self.features.size();
        (size[0], size[1], size[2])
    }

    /// Whether all samples are computed as one batch.
    fn as_one_batch(&self) -> bool {
        let (b, _, n) = self.sizes();
        // Counting the rows with partners would force a GPU synchronisation. A GPU therefore computes all rows of all samples.
        self.features.device() != Device::Cpu || b * n * n <= SMALL_BATCH
    }

    /// Starts and lengths of the blocks of samples that are computed together.
    fn sample_blocks(&self) -> impl Iterator<Item = (i64, i64)> + use<> {
        let (b, _, _) = self.sizes();
        blocks(b, if self.as_one_batch() { b } else { 1 })
    }

    /// Starts and lengths of the blocks of rows, if all rows are computed.
    fn row_blocks(&self) -> impl Iterator<Item = (i64, i64)> + use<> {
        let (_, _, n) = self.sizes();
        blocks(n, if self.as_one_batch() { n } else { BLOCK })
    }

    /// Which rows of a sample to compute; none if no row has a partner.
    fn rows(&self, sample: i64) -> Option<Rows> {
        if self.as_one_batch() {
            return Some(Rows::All);
        }
        let rows = self.partners.i((sample, .., 0)).ge(0).nonzero().squeeze_dim(1);
        // The gradient of all rows takes two N x N matrix products, that of the selected rows three rows x N products.
        match rows.size()[0] {
            0 => None,
            n if 3 * n >= 2 * self.sizes().2 => Some(Rows::All),
            _ => Some(Rows::Some(rows)),
        }
    }

    /// Uninitialised `[n, N, C]` buffer.
    fn buffer(&self, n: i64) -> Tensor {
        let (_, c, places) = self.sizes();
        Tensor::empty([n, places, c], (self.features.kind(), self.features.device()))
    }

    /// Unit vectors and norms of the samples from `first` on.
    ///
    /// - rows: `[n, N, C]` buffer, overwritten with the unit vectors
    fn units(&self, first: i64, mut rows: Tensor) -> Units {
        // The channels of a position are made contiguous: sums over them are then several times faster.
        copy_transposed(&rows, &self.features.narrow(0, first, rows.size()[0]));
        let norms = rows.norm_scalaropt_dim(2.0, [2].as_slice(), true);
        let _ = rows.g_div_(&norms.clamp_min(SMALLEST_NORM));
        Units { rows, norms }
    }

    /// Batched matrix product `[n, a, c]` of `[n, a, b]` and `[n, b, c]`.
    fn matmul(&self, left: &Tensor, right: &Tensor) -> Tensor {
        if left.size()[0] == 1 {
            return linear(&left.i(0), &right.i(0).transpose(0, 1), None).unsqueeze(0);
        }
        let product = with_tf32_products(self.mixed, || left.bmm(right));
        product.unwrap_or_else(|error| panic!("{error}"))
    }

    /// P between some unit vectors `[n, rows, C]` and all `[n, N, C]` of their samples; result `[n, rows, N]`.
    fn powers(&self, some: &Tensor, all: &Tensor) -> Tensor {
        let mut cosines = self.matmul(some, &all.transpose(1, 2));
        // The exponent is at most 0 for every temperature, so `exp` cannot overflow.
        cosines -= 1.0;
        if self.temperature != 1.0 {
            cosines /= self.temperature;
        }
        cosines.exp_()
    }

    fn mean_gap(&self) -> (Tensor, Saved) {
        let (b, _, n) = self.sizes();
        let place = (self.features.kind(), self.features.device());
        let saved = Saved {
            q: Tensor::zeros([b, n, self.partners.size()[2]], place),
            w: Tensor::zeros([b, n, 1], place),
        };
        let mut sum = Tensor::zeros([], place);
        for (first, n_samples) in self.sample_blocks() {
            let samples = |xs: &Tensor| xs.narrow(0, first, n_samples);
            let (partners, q, w) = (samples(&self.partners), samples(&saved.q), samples(&saved.w));
            let Some(rows) = self.rows(first) else { continue };
            let units = self.units(first, self.buffer(n_samples)).rows;
            match rows {
                Rows::All => {
                    for (start, length) in self.row_blocks() {
                        let part = |xs: &Tensor| xs.narrow(1, start, length);
                        let gaps = gaps(&self.powers(&part(&units), &units), &part(&partners));
                        part(&q).copy_(&gaps.q);
                        part(&w).copy_(&gaps.w);
                        sum += gaps.norm.sum(None);
                    }
                }
                Rows::Some(rows) => {
                    for rows in rows.split(BLOCK, 0) {
                        let part = |xs: &Tensor| xs.index_select(1, &rows);
                        let gaps = gaps(&self.powers(&part(&units), &units), &part(&partners));
                        let _ = q.shallow_clone().index_copy_(1, &rows, &gaps.q);
                        let _ = w.shallow_clone().index_copy_(1, &rows, &gaps.w);
                        sum += gaps.norm.sum(None);
                    }
                }
            }
        }
        (sum / (b * n) as f64, saved)
    }

    /// Gradient with respect to the features, of their shape.
    ///
    /// - grad_loss: the incoming gradient, a scalar
    fn gradient(&self, saved: &Saved, grad_loss: &Tensor) -> Tensor {
        let (b, c, n) = self.sizes();
        let gradient = Tensor::empty([b, c, n], (self.features.kind(), self.features.device()));
        let scale = grad_loss / ((b * n) as f64 * self.temperature);
        for (first, n_samples) in self.sample_blocks() {
            let samples = |xs: &Tensor| xs.narrow(0, first, n_samples);
            let mut share = samples(&gradient);
            let Some(rows) = self.rows(first) else {
                let _ = share.zero_();
                continue;
            };
            // The gradient's memory holds the unit vectors until the gradient is written.
            let units = self.units(first, share.view([n_samples, n, c]));
            let at = samples(&self.partners).clamp_min(0);
            let saved = Saved { q: samples(&saved.q), w: samples(&saved.w) };
            let grad_units = match rows {
                Rows::All => self.by_all_rows(&units.rows, &at, &saved),
                Rows::Some(rows) => self.by_some_rows(&units.rows, &at, &saved, &rows),
            };
            for (start, length) in self.row_blocks() {
                let part = |xs: &Tensor| xs.narrow(1, start, length);
                let units = Units { rows: part(&units.rows), norms: part(&units.norms) };
                normalisation_backward(part(&grad_units), units, &scale);
            }
            copy_transposed(&share, &grad_units);
        }
        gradient
    }

    /// `(H + H^T) E`, `[n, N, C]`.
    ///
    /// - units: E, `[n, N, C]`; at: indices of the partners, `[n, N, k]`, any valid index where there is none
    fn by_all_rows(&self, units: &Tensor, at: &Tensor, saved: &Saved) -> Tensor {
        let grad_units = self.buffer(units.size()[0]);
        for (start, length) in self.row_blocks() {
            let part = |xs: &Tensor| xs.narrow(1, start, length);
            let mut both = self.powers(&part(units), units);
            both *= part(&saved.w) + saved.w.transpose(1, 2);
            let _ = both.scatter_add_(2, &part(at), &-part(&saved.q));
            // The transposed term q_ji: rows whose partners are in this block.
            let here = at - start;
            let inside = here.ge(0).logical_and(&here.lt(length)).to_kind(both.kind());
            let minus_q = -(&saved.q * inside).transpose(1, 2);
            let _ = both.scatter_add_(1, &here.clamp(0, length - 1).transpose(1, 2), &minus_q);
            part(&grad_units).copy_(&self.matmul(&both, units));
        }
        grad_units
    }

    /// `(H + H^T) E` of one sample, from the rows that have partners.
    ///
    /// - rows: int64, indices of these rows
    fn by_some_rows(&self, units: &Tensor, at: &Tensor, saved: &Saved, rows: &Tensor) -> Tensor {
        let of_block = |rows: Tensor| {
            let part = |xs: &Tensor| xs.index_select(1, &rows);
            let own = part(units);
            let mut one_way = self.powers(&own, units);
            one_way *= part(&saved.w);
            let _ = one_way.scatter_add_(2, &part(at), &-part(&saved.q));
            let mut grad_units = self.matmul(&one_way.transpose(1, 2), &own);
            grad_units.index_add_(1, &rows, &self.matmul(&one_way, units))
        };
        let blocks = rows.split(BLOCK, 0).into_iter().map(of_block);
        blocks.reduce(|sum, block| sum + block).unwrap_or_else(|| units.zeros_like())
    }
}

/// Backward pass of the normalisation. Turns the gradient with respect to the unit vectors into that with respect to the
/// features, in-place. The unit vectors are overwritten.
///
/// - grad_units: gradient, `[n, rows, C]`
fn normalisation_backward(mut grad_units: Tensor, units: Units, scale: &Tensor) {
    let Units { mut rows, norms } = units;
    let along = Tensor::linalg_vecdot(&grad_units, &rows, 2).unsqueeze(2);
    rows *= along * norms.gt(SMALLEST_NORM).to_kind(rows.kind());
    grad_units -= rows;
    grad_units *= norms.clamp_min(SMALLEST_NORM).reciprocal() * scale;
    // A feature vector of zeros has no direction; its gradient is defined as zero.
    let _ = grad_units.masked_fill_(&norms.eq(0.0), 0.0);
}

/// Copies `[batch, a, b]` transposed into `[batch, b, a]`. libtorch transposes a single matrix in blocks, which is far faster
/// than its copy of a batch of matrices.
fn copy_transposed(to: &Tensor, from: &Tensor) {
    if from.size()[0] == 1 {
        to.i(0).copy_(&from.i(0).transpose(0, 1));
    } else {
        to.shallow_clone().copy_(&from.transpose(1, 2));
    }
}

/// Gaps `1 - A` of rows at their partners, and the terms of their gradient.
struct Gaps {
    /// `|| 1 - A ||` over the partners, `[n, rows, 1]`.
    norm: Tensor,
    /// q of the partners, `[n, rows, k]`.
    q: Tensor,
    /// w, `[n, rows, 1]`.
    w: Tensor,
}

/// - powers: P, `[n, rows, N]`; partners: `[n, rows, k]`, -1 for none
fn gaps(powers: &Tensor, partners: &Tensor) -> Gaps {
    let smallest = f64::from(f32::MIN_POSITIVE);
    let sums = powers.sum_dim_intlist([2].as_slice(), true, None).clamp_min(smallest);
    let affinity = powers.gather(2, &partners.clamp_min(0), false) / &sums;
    let gap = (1.0_f64 - &affinity) * partners.ge(0).to_kind(powers.kind());
    let norm = gap.norm_scalaropt_dim(2.0, [2].as_slice(), true);
    // d norm / d A_ij = -gap_ij / norm, and 0 where the norm is 0.
    let q = gap / norm.clamp_min(smallest) * affinity;
    let w = q.sum_dim_intlist([2].as_slice(), true, None) / sums;
    Gaps { norm, q, w }
}
