//! Intervals of paired differences that account for seeds as well as expressions.

use std::collections::BTreeMap;

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
    /// Standard deviation of the mean over resamples.
    pub standard_error: f64,
}

impl Interval {
    /// The smallest true difference that such a comparison finds (a two-sided test at 5 %) with a probability of 80 %: 1.96 + 0.84
    /// standard errors.
    pub fn detectable(&self) -> f64 {
        2.8 * self.standard_error
    }
}

const RESAMPLES: usize = 2000;

/// Paired differences by seed and ref; a ref has several expressions.
#[derive(Debug, Clone, Default)]
pub struct Differences {
    /// Sum and number of a seed's differences, by seed and ref.
    sums: BTreeMap<(u64, i64), (f64, usize)>,
}

impl Differences {
    /// Adds the difference of an expression.
    pub fn add(&mut self, seed: u64, ref_id: i64, value: f64) {
        let (sum, n) = self.sums.entry((seed, ref_id)).or_default();
        *sum += value;
        *n += 1;
    }

    /// The mean, with the 95 % interval of a percentile bootstrap over seeds and refs: 2,000 resamples. Each draws refs with
    /// replacement, together with all of their expressions, which share a target; and, of n seeds, n - 1 with replacement, which makes
    /// up for their small number (Rao and Wu, 1988). With one seed the interval is over refs alone. The same values always give the
    /// same interval. `None` without values.
    pub fn interval(&self) -> Option<Interval> {
        let seeds = numbered(self.sums.keys().map(|(seed, _)| *seed));
        let refs = numbered(self.sums.keys().map(|(_, ref_id)| *ref_id));
        let mut sums = vec![vec![(0.0, 0.0); refs.len()]; seeds.len()];
        for ((seed, ref_id), &(sum, n)) in &self.sums {
            sums[seeds[seed]][refs[ref_id]] = (sum, n as f64);
        }
        let mean = |rows: &mut dyn Iterator<Item = &(f64, f64)>| {
            let (sum, n) = rows.fold((0.0, 0.0), |(sum, n), (value, count)| (sum + value, n + count));
            (n > 0.0).then(|| sum / n)
        };
        let all = mean(&mut sums.iter().flatten())?;
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let n_seeds = (seeds.len() - 1).max(1);
        let mut means: Vec<f64> = (0..RESAMPLES)
            .filter_map(|_| {
                let seeds: Vec<usize> = (0..n_seeds).map(|_| rng.random_range(0..sums.len())).collect();
                let refs: Vec<usize> = (0..refs.len()).map(|_| rng.random_range(0..refs.len())).collect();
                let drawn = seeds.iter().map(|&seed| &sums[seed]);
                mean(&mut drawn.flat_map(|of_seed| refs.iter().map(|&index| &of_seed[index])))
            })
            .collect();
        means.sort_by(f64::total_cmp);
        let at = |share: f64| means[((means.len() as f64 * share) as usize).min(means.len() - 1)];
        let centre = means.iter().sum::<f64>() / means.len() as f64;
        let variance = means.iter().map(|mean| (mean - centre).powi(2)).sum::<f64>() / means.len() as f64;
        Some(Interval { mean: all, low: at(0.025), high: at(0.975), standard_error: variance.sqrt() })
    }
}

/// Numbers different values in ascending order.
fn numbered<T: Ord>(values: impl Iterator<Item = T>) -> BTreeMap<T, usize> {
    let distinct: std::collections::BTreeSet<T> = values.collect();
    distinct.into_iter().zip(0..).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differences(values: impl IntoIterator<Item = (u64, i64, f64)>) -> Differences {
        let mut differences = Differences::default();
        values.into_iter().for_each(|(seed, ref_id, value)| differences.add(seed, ref_id, value));
        differences
    }

    #[test]
    fn a_constant_difference_is_certain() {
        let constant = differences((0..10).map(|index| (index % 2, index as i64, 2.0)));
        let found = constant.interval().unwrap();
        assert_eq!((found.mean, found.low, found.high, found.detectable()), (2.0, 2.0, 2.0, 0.0));
        assert_eq!(Differences::default().interval(), None);
    }

    #[test]
    fn with_one_seed_the_interval_is_that_over_refs() {
        // Deviation 1 over 400 refs: 1.96 / 20 on either side.
        let values = (0..400).map(|index| (0, index, if index % 2 == 0 { 1.0 } else { -1.0 }));
        let found = differences(values).interval().unwrap();
        assert!(found.mean.abs() < 1e-12);
        assert!((found.low + 0.098).abs() < 0.015 && (found.high - 0.098).abs() < 0.015, "{found:?}");
        assert!((found.detectable() - 2.8 / 20.0).abs() < 0.01, "{found:?}");
    }

    #[test]
    fn seeds_that_disagree_widen_it() {
        // Five seeds with deviation 1 (n - 1) between them and none between refs: the standard error is 1 / sqrt(5).
        let spread = 2.0_f64.sqrt() / 5.0_f64.sqrt() * 1.118_034;
        let offsets = [-1.0, -0.5, 0.0, 0.5, 1.0].map(|offset: f64| offset * spread * 2.0_f64.sqrt());
        let variance = offsets.iter().map(|offset| offset * offset).sum::<f64>() / 4.0;
        let values =
            (0..5).flat_map(|seed| (0..50).map(move |ref_id| (seed, ref_id, offsets[seed as usize])));
        let found = differences(values).interval().unwrap();
        let expected = (variance / 5.0).sqrt();
        assert!((found.standard_error - expected).abs() < 0.05 * expected, "{found:?}, {expected}");
    }
}
