//! Batch normalisation over the samples of several processes (SyncBatchNorm).

use std::sync::Arc;

use tch::Tensor;

use crate::across::Processes;
use crate::custom_gradient;

/// Statistics of a batch over all processes, per channel.
pub(super) struct Statistics {
    pub(super) mean: Tensor,
    /// Sum of squared deviations from the mean.
    pub(super) squares: Tensor,
    /// Number of values per channel.
    pub(super) count: Tensor,
}

/// Sums over all axes but the channels.
fn channel_sums(xs: &Tensor) -> Tensor {
    let axes: Vec<i64> = (0..xs.dim() as i64).filter(|&axis| axis != 1).collect();
    xs.sum_dim_intlist(axes.as_slice(), false, None)
}

/// Views one value per channel so that it broadcasts against `like`.
fn per_channel(values: &Tensor, like: &Tensor) -> Tensor {
    let shape: Vec<i64> = (0..like.dim()).map(|axis| if axis == 1 { -1 } else { 1 }).collect();
    values.view(shape.as_slice())
}

impl Statistics {
    /// Takes one all-reduce: it gathers the count, mean and sum of squared deviations of each process, which are then combined
    /// by the formula of Chan et al. The mean of squares minus the squared mean would lose digits.
    ///
    /// - xs: `[batch, channels, ...]` in the dtype of the statistics
    pub(super) fn of(xs: &Tensor, processes: &dyn Processes) -> Self {
        let channels = xs.size()[1];
        let own_count = xs.numel() as f64 / channels as f64;
        let own_mean = channel_sums(xs) / own_count;
        let own_squares = channel_sums(&(xs - per_channel(&own_mean, xs)).square());
        let mut all = Tensor::zeros([processes.size() as i64, 2 * channels + 1], (xs.kind(), xs.device()));
        let own =
            Tensor::cat(&[own_mean, own_squares, Tensor::full([1], own_count, (xs.kind(), xs.device()))], 0);
        // Each process fills its own row and adds zeros to the others, so the sum is a gather.
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

/// Normalises with the statistics of all processes. Differentiable through the statistics too, which takes one more all-reduce
/// in the backward pass.
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
        (&wide - per_channel(&mean, &wide)) * per_channel(&kept_scale, &wide)
    };
    let value = tch::no_grad(|| {
        let ys = normalised() * per_channel(weight, xs) + per_channel(bias, xs);
        ys.to_kind(xs.kind())
    });
    let processes = Arc::clone(processes);
    custom_gradient(&[xs, weight, bias], value, move |grad_value: &Tensor| {
        tch::no_grad(|| {
            let (n, grad_kind) = (normalised(), grad_value.kind());
            let dy = grad_value.to_kind(kind);
            let channels = scale.size()[0];
            let own = Tensor::cat(&[channel_sums(&dy), channel_sums(&(&dy * &n))], 0);
            let mut all = own.copy();
            processes.add(&mut all);
            let means = all / &count;
            let mean_dy = per_channel(&means.narrow(0, 0, channels), &dy);
            let mean_dy_n = per_channel(&means.narrow(0, channels, channels), &dy);
            let dx = (dy - mean_dy - n * mean_dy_n) * per_channel(&(&scale * &kept_weight), grad_value);
            vec![dx.to_kind(grad_kind), own.narrow(0, channels, channels), own.narrow(0, 0, channels)]
        })
    })
}
