use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;
use serde::Serialize;

use crate::clip_tokenizer::ClipTokenizer;
use crate::dataset::Dataset;
use crate::error::Result;

/// Statistics of one split.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SplitStats {
    /// Number of refs. In the REFER data sets (RefCOCO and others), a ref is one referred object.
    pub refs: usize,
    /// Number of refs without a target.
    pub refs_without_target: usize,
    /// Number of refs with more than one target.
    pub refs_with_several_targets: usize,
    /// Number of expressions, over all refs.
    pub expressions: usize,
    /// Number of expressions with more tokens (CLIP's) than the data set's word length, which are cut.
    pub expressions_cut: usize,
    /// Number of distinct images.
    pub images: usize,
    /// Number of words (separated by white space), over all expressions.
    pub words: usize,
    /// Number of expressions of 0, 1, 2, ... words, up to the longest expression.
    pub expressions_by_words: Vec<usize>,
    /// Number of refs with a distractor: another non-crowd object in the image, of a category of the ref's targets.
    pub refs_with_distractor: usize,
    /// Number of refs with 0, 1, 2, and 3 or more distractors.
    pub refs_by_distractors: [usize; 4],
    /// Mean number of distractors per ref.
    pub mean_distractors: f64,
    /// Area of the targets in percent of the image: 10th, 25th, 50th, 75th and 90th percentile over the refs with a target.
    pub target_percent: [f64; 5],
    /// Median area of the targets in percent of the image, over the refs with a target.
    pub median_target_percent: f64,
    /// Number of refs with a target, by the area of the targets: below 1, 2, 5, 10, 20, 50 percent of the image, and the rest.
    pub refs_by_target_percent: [usize; 7],
}

/// Upper bounds of the first six classes of [`SplitStats::refs_by_target_percent`], in percent of the image.
pub const TARGET_PERCENT_BOUNDS: [f64; 6] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0];

/// [`SplitStats`] of every split and of the whole data set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DatasetStats {
    /// Statistics by split name.
    pub splits: BTreeMap<String, SplitStats>,
    /// Statistics over all refs.
    pub total: SplitStats,
}

impl Dataset {
    /// Computes the statistics of the data set. Decodes every target's mask, in parallel.
    ///
    /// # Errors
    /// The first mask that cannot be decoded.
    pub fn stats(&self) -> Result<DatasetStats> {
        let tokenizer = ClipTokenizer::new()?;
        let facts: Vec<RefFacts> = (0..self.refs.len())
            .into_par_iter()
            .map(|index| {
                let reference = &self.refs[index];
                let n_distractors = self.distractors(reference).len();
                let n_cut = self.findings(&[index], &tokenizer, self.descriptor.word_len, 0).cut_expressions;
                if reference.ann_ids.is_empty() {
                    return Ok(RefFacts { n_distractors, n_cut, percent: None });
                }
                let mask = self.target(reference)?;
                let percent = 100.0 * mask.area() as f64 / (mask.width * mask.height).max(1) as f64;
                Ok(RefFacts { n_distractors, n_cut, percent: Some(percent) })
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
            .map(|share| percents.get(quantile_index(percents.len(), share)).map_or(0.0, |&x| x));
        let class = |percent: f64| TARGET_PERCENT_BOUNDS.partition_point(|&bound| bound <= percent);
        SplitStats {
            refs: indices.len(),
            refs_without_target: refs().filter(|reference| reference.ann_ids.is_empty()).count(),
            refs_with_several_targets: refs().filter(|reference| reference.ann_ids.len() > 1).count(),
            expressions: words.len(),
            expressions_cut: indices.iter().map(|&index| facts[index].n_cut).sum(),
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

/// Index of a quantile in a sorted list of `n` values.
fn quantile_index(n: usize, share: f64) -> usize {
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
    /// Number of its expressions that are cut.
    n_cut: usize,
    /// Area of the targets in percent of the image; `None` without a target.
    percent: Option<f64>,
}
