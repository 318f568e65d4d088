use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;
use serde::Serialize;

use crate::dataset::Dataset;
use crate::error::Result;

/// What a split holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SplitStats {
    /// Referents.
    pub refs: usize,
    /// Expressions of all refs.
    pub expressions: usize,
    /// Different images.
    pub images: usize,
    /// White-space separated words of all expressions.
    pub words: usize,
    /// Refs with at least one other non-crowd object of their category in the image.
    pub refs_with_distractor: usize,
    /// Mean number of such objects per ref.
    pub mean_distractors: f64,
    /// Median share of the image that the target covers, in percent.
    pub median_target_percent: f64,
}

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
        let mut by_category: BTreeMap<(i64, i64), Vec<i64>> = BTreeMap::new();
        for annotation in self.instances.annotations.values().filter(|annotation| !annotation.is_crowd) {
            by_category.entry((annotation.image_id, annotation.category_id)).or_default().push(annotation.id);
        }
        let facts: Vec<RefFacts> = self
            .refs
            .par_iter()
            .map(|reference| {
                let mask = self.mask(reference.ann_id)?;
                let same = by_category.get(&(reference.image_id, reference.category_id));
                let n_distractors =
                    same.map_or(0, |ids| ids.iter().filter(|&&id| id != reference.ann_id).count());
                let percent = 100.0 * mask.area() as f64 / (mask.width * mask.height).max(1) as f64;
                Ok(RefFacts { n_distractors, percent })
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
        let expressions = || refs().flat_map(|reference| &reference.expressions);
        let mut percents: Vec<f64> = indices.iter().map(|&index| facts[index].percent).collect();
        percents.sort_by(f64::total_cmp);
        let n_distractors: usize = indices.iter().map(|&index| facts[index].n_distractors).sum();
        SplitStats {
            refs: indices.len(),
            expressions: expressions().count(),
            images: refs().map(|reference| reference.image_id).collect::<BTreeSet<_>>().len(),
            words: expressions().map(|expression| expression.sent.split_whitespace().count()).sum(),
            refs_with_distractor: indices.iter().filter(|&&index| facts[index].n_distractors > 0).count(),
            mean_distractors: n_distractors as f64 / indices.len().max(1) as f64,
            median_target_percent: percents.get(percents.len() / 2).copied().unwrap_or(0.0),
        }
    }
}

struct RefFacts {
    n_distractors: usize,
    percent: f64,
}
