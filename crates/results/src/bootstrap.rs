use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A mean with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// The mean of all values.
    pub mean: f64,
    /// 2.5th percentile of the mean over resamples.
    pub low: f64,
    /// 97.5th percentile of the mean over resamples.
    pub high: f64,
}

const RESAMPLES: usize = 2000;

/// The mean of paired differences, with the 95 % interval of a percentile bootstrap: 2,000 resamples of the same size, drawn
/// with replacement. The same values always give the same interval. `None` without values.
pub fn paired_bootstrap(differences: &[f64]) -> Option<Interval> {
    if differences.is_empty() {
        return None;
    }
    let n = differences.len();
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|_| (0..n).map(|_| differences[rng.random_range(0..n)]).sum::<f64>() / n as f64)
        .collect();
    means.sort_by(f64::total_cmp);
    let at = |share: f64| means[((RESAMPLES as f64 * share) as usize).min(RESAMPLES - 1)];
    let mean = differences.iter().sum::<f64>() / n as f64;
    Some(Interval { mean, low: at(0.025), high: at(0.975) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_difference_is_certain() {
        let found = paired_bootstrap(&[2.0; 10]).unwrap();
        assert_eq!((found.mean, found.low, found.high), (2.0, 2.0, 2.0));
        assert_eq!(paired_bootstrap(&[]), None);
    }

    #[test]
    fn the_interval_is_near_the_normal_one() {
        // Deviation 1 over 400 values: 1.96 / 20 on either side.
        let values: Vec<f64> = (0..400).map(|index| if index % 2 == 0 { 1.0 } else { -1.0 }).collect();
        let found = paired_bootstrap(&values).unwrap();
        assert!(found.mean.abs() < 1e-12);
        assert!((found.low + 0.098).abs() < 0.015 && (found.high - 0.098).abs() < 0.015, "{found:?}");
    }
}
