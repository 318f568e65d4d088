use tch::Tensor;

use super::Mode;
use crate::shim;

/// Dropout. In training it zeroes entries with this probability and divides the others by one minus it. Otherwise it returns
/// its input.
///
/// On the CPU, the mask is drawn in parallel from a seed of libtorch's generator, and drawn again in the backward pass.
/// libtorch's own dropout draws sequentially and stores the mask.
///
/// # Panics
/// Like tch's own operations.
pub fn dropout(xs: &Tensor, probability: f64, mode: Mode) -> Tensor {
    if !mode.is_train() || probability == 0.0 {
        return xs.shallow_clone();
    }
    shim::dropout(xs, probability).unwrap_or_else(|error| panic!("{error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn the_wanted_share_is_dropped_everywhere() {
        tch::manual_seed(5);
        let ones = Tensor::ones([200, 500], (Kind::Float, Device::Cpu));
        let out = dropout(&ones, 0.1, Mode::Train);
        let kept = out.gt(0.0).to_kind(Kind::Double);
        let share = |kept: &Tensor| f64::try_from(kept.mean(Kind::Double)).unwrap();
        // Within five standard deviations: over all 100,000 entries, the 500 of a row, the 200 of a column.
        assert!((share(&kept) - 0.9).abs() < 5.0 * 0.3 / 100_000_f64.sqrt());
        let spread = |axis: i64, n: f64| {
            let shares = kept.mean_dim([axis].as_slice(), false, Kind::Double);
            f64::try_from((shares - 0.9).abs().max()).unwrap() / (0.3 / n.sqrt())
        };
        assert!(spread(1, 500.0) < 5.0 && spread(0, 200.0) < 5.0);
        assert!((f64::try_from(out.max()).unwrap() - 1.0 / 0.9).abs() < 1e-6);
        // Rows are independent: two agree in 0.9^2 + 0.1^2 = 0.82 of their entries.
        let agree = kept.narrow(0, 0, 199).eq_tensor(&kept.narrow(0, 1, 199)).to_kind(Kind::Double);
        assert!((share(&agree) - 0.82).abs() < 0.01);
    }

    #[test]
    fn the_backward_pass_drops_the_same() {
        tch::manual_seed(6);
        let xs = Tensor::ones([7, 33], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let out = dropout(&xs, 0.5, Mode::Train);
        out.sum(Kind::Float).backward();
        assert!(xs.grad().equal(&out));
        tch::manual_seed(6);
        assert!(dropout(&xs, 0.5, Mode::Train).equal(&out));
        assert!(!dropout(&xs, 0.5, Mode::Train).equal(&out));
        assert!(dropout(&xs, 0.5, Mode::Eval).equal(&xs));
    }
}
