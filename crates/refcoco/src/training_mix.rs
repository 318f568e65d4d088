//! Training on several data sets at once without leaking test images.

use std::collections::BTreeSet;

use crate::dataset::Dataset;
use crate::error::Result;
use crate::loader::RefAt;

/// The refs to train on, and what was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainingMix {
    /// Refs of every data set's `train` split that have an expression.
    pub refs: Vec<RefAt>,
    /// Train refs left out because another data set evaluates on their image.
    pub n_leaking: usize,
    /// Train refs left out because they have no expression.
    pub n_without_expression: usize,
}

/// Joins the train splits. With more than one data set, images of any evaluation split of any of them are left
/// out; a single one is used as published (RefCOCOg google shares images between train and val by design).
///
/// # Errors
/// When a data set has no `train` split.
pub fn training_mix(datasets: &[Dataset]) -> Result<TrainingMix> {
    let mut evaluated = BTreeSet::new();
    if datasets.len() > 1 {
        for dataset in datasets {
            let held_out = dataset.refs.iter().filter(|reference| reference.split != "train");
            evaluated.extend(held_out.map(|reference| reference.image_id));
        }
    }
    let mut mix = TrainingMix { refs: Vec::new(), n_leaking: 0, n_without_expression: 0 };
    for (position, dataset) in datasets.iter().enumerate() {
        for index in dataset.split("train")? {
            let reference = &dataset.refs[index];
            if reference.expressions.is_empty() {
                mix.n_without_expression += 1;
            } else if evaluated.contains(&reference.image_id) {
                mix.n_leaking += 1;
            } else {
                mix.refs.push(RefAt { dataset: position, index });
            }
        }
    }
    Ok(mix)
}
