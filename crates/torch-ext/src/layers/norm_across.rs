//! Batch normalisation over the samples of several processes.

use std::sync::Arc;

use tch::Tensor;

use crate::across::Processes;
use crate::custom_gradient;

/// Statistics of a batch over all processes, by channel.
pub(super) struct Statistics {
    pub(super) mean: Tensor,
    /// Sum of the squared distances to the mean.
    pub(super) squares: Tensor,
    /// Values a channel.
    pub(super) count: Tensor,
}

fn over_batch(xs: &Tensor) -> Tensor {
    let axes: Vec<i64> = (0..xs.dim() as i64).filter(|&axis| axis != 1).collect();
    xs.sum_dim_intlist(axes.as_slice(), false, None)
}

/// A value a channel, to go with `like`.
fn by_channel(values: &Tensor, like: &Tensor) -> Tensor {
    let shape: Vec<i64> = (0..like.dim()).map(|axis| if axis == 1 { -1 } else { 1 }).collect();
    values.view(shape.as_slice())
}

impl Statistics {
    /// One operation: all processes' counts, means and squared distances to their own means, joined as Chan et al. do. The
    /// mean of squares less the squared mean would lose digits.
    ///
    /// - xs: `[batch, channels, ...]` of the dtype of the statistics
    pub(super) fn of(xs: &Tensor, processes: &dyn Processes) -> Self {
        let channels = xs.size()[1];
        let own_count = xs.numel() as f64 / channels as f64;
        let own_mean = over_batch(xs) / own_count;
        let own_squares = over_batch(&(xs - by_channel(&own_mean, xs)).square());
        let mut all = Tensor::zeros([processes.size() as i64, 2 * channels + 1], (xs.kind(), xs.device()));
        let own =
            Tensor::cat(&[own_mean, own_squares, Tensor::full([1], own_count, (xs.kind(), xs.device()))], 0);
        // Everybody else adds zeros here.
        all.get(processes.rank() as i64).copy_(&own);
        processes.add(&mut all);
        let part = |start: i64, n: i64| all.narrow(1, start, n);
        let (means, squares, counts) = (part(0, channels), part(channels, channels), part(2 * channels, 1));
        let over_processes = |xs: &Tensor| xs.sum_dim_intlist([0].as_slice(), false, None);
        let count = over_processes(&counts);
        let mean = over_processes(&(&means * &counts)) / &count;
        let squares = over_processes(&(squares + (means - &mean).square() * counts));
        Self { mean, squares, count }
    }
}

/// Normalises with statistics over all processes, differentiable also through these: one more operation backward.
///
/// ```text
/// y = n w + b,  n = (x - mean) / sqrt(variance + eps)
/// dx = w / sqrt(variance + eps) (dy - mean(dy) - n mean(dy n)),  means over all processes
/// ```
pub(super) fn normalise(
    xs: &Tensor,
    [weight, bias]: [&Tensor; 2],
    statistics: &Statistics,
    eps: f64,
    processes: &Arc<dyn Processes>,
) -> Tensor {
    let kind = statistics.mean.kind();
    let Statistics { mean, squares, count } = statistics;
    let (mean, count) = (mean.shallow_clone(), count.shallow_clone());
    let scale = (squares / &count + eps).rsqrt();
    let (kept, kept_weight, kept_scale) = (xs.detach(), weight.detach(), scale.shallow_clone());
    let normalised = move || {
        let wide = kept.to_kind(kind);
        (&wide - by_channel(&mean, &wide)) * by_channel(&kept_scale, &wide)
    };
    let value = tch::no_grad(|| {
        let ys = normalised() * by_channel(weight, xs) + by_channel(bias, xs);
        ys.to_kind(xs.kind())
    });
    let processes = Arc::clone(processes);
    custom_gradient(&[xs, weight, bias], value, move |by_value: &Tensor| {
        tch::no_grad(|| {
            let (n, by_value_kind) = (normalised(), by_value.kind());
            let dy = by_value.to_kind(kind);
            let channels = scale.size()[0];
            let own = Tensor::cat(&[over_batch(&dy), over_batch(&(&dy * &n))], 0);
            let mut all = own.copy();
            processes.add(&mut all);
            let means = all / &count;
            let of_dy = by_channel(&means.narrow(0, 0, channels), &dy);
            let of_product = by_channel(&means.narrow(0, channels, channels), &dy);
            let dx = (dy - of_dy - n * of_product) * by_channel(&(&scale * &kept_weight), by_value);
            vec![dx.to_kind(by_value_kind), own.narrow(0, channels, channels), own.narrow(0, 0, channels)]
        })
    })
}
