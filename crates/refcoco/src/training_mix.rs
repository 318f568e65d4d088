//! Joins the train splits of several data sets without leaking evaluation images.

use std::collections::{BTreeMap, BTreeSet};

use crate::dataset::Dataset;
use crate::error::Result;
use crate::loader::RefAt;
use crate::picture_key::{PictureKey, picture_keys};

/// The refs to train on, and what was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainingMix {
    /// Refs of every data set's `train` split that have an expression.
    pub refs: Vec<RefAt>,
    /// Number of train refs left out because an evaluation split has their image, by data set.
    pub n_leaking: Vec<usize>,
    /// Number of train refs left out because they have no expression, by data set.
    pub n_without_expression: Vec<usize>,
}

/// Keys of the pictures in evaluation splits of the data sets: every split but `train`.
fn evaluated_keys(datasets: &[Dataset], keys: &[BTreeMap<i64, Vec<PictureKey>>]) -> BTreeSet<PictureKey> {
    let of_one = |(dataset, keys): (&Dataset, &BTreeMap<i64, Vec<PictureKey>>)| {
        let evaluated = dataset.refs.iter().filter(|reference| reference.split != "train");
        evaluated.flat_map(|reference| keys[&reference.image_id].clone()).collect::<Vec<_>>()
    };
    datasets.iter().zip(keys).flat_map(of_one).collect()
}

/// Joins the train splits. Images of any evaluation split of any of the data sets are left out, unless `keep_evaluated`. A
/// single data set whose splits share images by design, such as RefCOCOg google, is used as published.
///
/// # Errors
/// When a data set has no `train` split.
pub fn training_mix(datasets: &[Dataset], keep_evaluated: bool) -> Result<TrainingMix> {
    let by_design = matches!(datasets, [one] if one.descriptor.splits_share_images);
    // Own pictures are hashed for their keys, so that these are only made where they decide.
    let keys = if by_design || keep_evaluated { Vec::new() } else { picture_keys(datasets) };
    let evaluated = evaluated_keys(datasets, &keys);
    let zeros = vec![0; datasets.len()];
    let mut mix = TrainingMix { refs: Vec::new(), n_leaking: zeros.clone(), n_without_expression: zeros };
    for (position, dataset) in datasets.iter().enumerate() {
        for index in dataset.split("train")? {
            let reference = &dataset.refs[index];
            if reference.expressions.is_empty() {
                mix.n_without_expression[position] += 1;
            } else if keys
                .get(position)
                .is_some_and(|keys| keys[&reference.image_id].iter().any(|key| evaluated.contains(key)))
            {
                mix.n_leaking[position] += 1;
            } else {
                mix.refs.push(RefAt { dataset: position, index });
            }
        }
    }
    Ok(mix)
}

/// Names of the images of a mix that are also in an evaluation split of the data sets.
pub fn leaked_images(datasets: &[Dataset], mix: &TrainingMix) -> BTreeSet<String> {
    let keys = picture_keys(datasets);
    let evaluated = evaluated_keys(datasets, &keys);
    let leaks = |at: &&RefAt| {
        let image_id = datasets[at.dataset].refs[at.index].image_id;
        keys[at.dataset][&image_id].iter().any(|key| evaluated.contains(key))
    };
    let name = |at: &RefAt| {
        let dataset = &datasets[at.dataset];
        let record = dataset.instances.images.get(&dataset.refs[at.index].image_id)?;
        Some(format!("{}/{}", dataset.descriptor.name, record.file_name))
    };
    mix.refs.iter().filter(leaks).filter_map(name).collect()
}
