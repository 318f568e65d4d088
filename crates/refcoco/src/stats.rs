use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;
use serde::Serialize;

use crate::dataset::Dataset;
use crate::error::Result;

/// What a split holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SplitStats {
    /// Refs; in RefCOCO and its kin, referents.
    pub refs: usize,
    /// Refs without target.
    pub refs_without_target: usize,
    /// Refs with more than one target.
    pub refs_with_several_targets: usize,
    /// Expressions of all refs.
    pub expressions: usize,
    /// Different images.
    pub images: usize,
    /// White-space separated words of all expressions.
    pub words: usize,
    /// Expressions by their number of words, from 0; the last entry is the longest expression's.
    pub expressions_by_words: Vec<usize>,
    /// Refs with at least one other non-crowd object of their targets' categories in the image.
    pub refs_with_distractor: usize,
    /// Refs by the number of such objects: 0, 1, 2, and 3 or more.
    pub refs_by_distractors: [usize; 4],
    /// Mean number of such objects per ref.
    pub mean_distractors: f64,
    /// Share of the image that the targets cover, in percent: its 10th, 25th, 50th, 75th and 90th percentile over the
    /// refs with a target.
    pub target_percent: [f64; 5],
    /// Median of the same.
    pub median_target_percent: f64,
    /// Refs with a target by that share: below 1, 2, 5, 10, 20, 50 percent, and the rest.
    pub refs_by_target_percent: [usize; 7],
}

/// Upper bounds of the first six classes of [`SplitStats::refs_by_target_percent`].
pub const TARGET_PERCENT_BOUNDS: [f64; 6] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0];

/// [`SplitStats`] of every split and of all of them together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DatasetStats {
    /// By split name.
    pub splits: BTreeMap<String, SplitStats>,
    /// All refs.
    pub total: SplitStats,
}

impl Dataset {
    /// Counts what the data set holds. Decodes every target's mask, in parallel.
    ///
    /// # Errors
    /// The first mask that cannot be decoded.
    pub fn stats(&self) -> Result<DatasetStats> {
        let facts: Vec<RefFacts> = self
            .refs
            .par_iter()
            .map(|reference| {
                let n_distractors = self.distractors(reference).len();
                if reference.ann_ids.is_empty() {
                    return Ok(RefFacts { n_distractors, percent: None });
                }
                let mask = self.target(reference)?;
                let percent = 100.0 * mask.area() as f64 / (mask.width * mask.height).max(1) as f64;
                Ok(RefFacts { n_distractors, percent: Some(percent) })
            })
            .collect::<Result<_>>()?;
        let of = |chosen: &dyn Fn(&str) -> bool| {
            let indices: Vec<usize> =
                (0..self.refs.len()).filter(|&index| chosen(&self.refs[index].split)).collect();
            self.summarise(&indices, &facts)
        };
        let splits =
            self.splits().into_iter().map(|name| (name.to_owned(), of(&|split| split == name))).collect();
        Ok(DatasetStats { splits, total: of(&|_| true) })
    }

    fn summarise(&self, indices: &[usize], facts: &[RefFacts]) -> SplitStats {
        let refs = || indices.iter().map(|&index| &self.refs[index]);
        let words: Vec<usize> = refs()
            .flat_map(|reference| &reference.expressions)
            .map(|expression| expression.sent.split_whitespace().count())
            .collect();
        let distractors: Vec<usize> = indices.iter().map(|&index| facts[index].n_distractors).collect();
        let mut percents: Vec<f64> = indices.iter().filter_map(|&index| facts[index].percent).collect();
        percents.sort_by(f64::total_cmp);
        let target_percent = [0.1, 0.25, 0.5, 0.75, 0.9]
            .map(|share| percents.get(rank(percents.len(), share)).map_or(0.0, |&x| x));
        let class = |percent: f64| TARGET_PERCENT_BOUNDS.partition_point(|&bound| bound <= percent);
        SplitStats {
            refs: indices.len(),
            refs_without_target: refs().filter(|reference| reference.ann_ids.is_empty()).count(),
            refs_with_several_targets: refs().filter(|reference| reference.ann_ids.len() > 1).count(),
            expressions: words.len(),
            images: refs().map(|reference| reference.image_id).collect::<BTreeSet<_>>().len(),
            words: words.iter().sum(),
            expressions_by_words: histogram(&words),
            refs_with_distractor: distractors.iter().filter(|&&n| n > 0).count(),
            mean_distractors: distractors.iter().sum::<usize>() as f64 / indices.len().max(1) as f64,
            refs_by_distractors: counts(distractors.into_iter().map(|n| n.min(3))),
            target_percent,
            median_target_percent: target_percent[2],
            refs_by_target_percent: counts(percents.into_iter().map(class)),
        }
    }
}

/// Position of a quantile in a sorted list of `n`.
fn rank(n: usize, share: f64) -> usize {
    ((n as f64 * share) as usize).min(n.saturating_sub(1))
}

fn counts<const N: usize>(classes: impl Iterator<Item = usize>) -> [usize; N] {
    let mut counts = [0; N];
    for class in classes {
        counts[class] += 1;
    }
    counts
}

/// How often each value from 0 to the largest occurs.
fn histogram(values: &[usize]) -> Vec<usize> {
    let mut counts = vec![0; values.iter().max().map_or(0, |&largest| largest + 1)];
    for &value in values {
        counts[value] += 1;
    }
    counts
}

struct RefFacts {
    n_distractors: usize,
    /// None without target.
    percent: Option<f64>,
}
