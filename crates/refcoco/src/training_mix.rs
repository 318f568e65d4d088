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
    /// Train refs left out because an evaluation split has their image, by data set.
    pub n_leaking: Vec<usize>,
    /// Train refs left out because they have no expression, by data set.
    pub n_without_expression: Vec<usize>,
}

/// What makes two records the same picture, in whatever data set and under whatever number: file name and size.
pub type ImageKey = (String, usize, usize);

/// The pictures of all evaluation splits of some data sets: whatever is not `train`.
fn evaluation_images(datasets: &[Dataset]) -> BTreeSet<ImageKey> {
    let of_one = |dataset: &Dataset| {
        let evaluated = dataset.refs.iter().filter(|reference| reference.split != "train");
        evaluated.filter_map(|reference| image_key(dataset, reference.image_id)).collect::<Vec<_>>()
    };
    datasets.iter().flat_map(of_one).collect()
}

fn image_key(dataset: &Dataset, image_id: i64) -> Option<ImageKey> {
    let record = dataset.instances.images.get(&image_id)?;
    let name = record.file_name.rsplit('/').next().unwrap_or_default();
    Some((name.to_owned(), record.width, record.height))
}

/// Joins the train splits. With more than one data set, pictures of any evaluation split of any of them are left
/// out, unless `keep_evaluated`; a single one is used as published (RefCOCOg google shares images between train and
/// val by design).
///
/// # Errors
/// When a data set has no `train` split.
pub fn training_mix(datasets: &[Dataset], keep_evaluated: bool) -> Result<TrainingMix> {
    let evaluated = match datasets.len() > 1 && !keep_evaluated {
        true => evaluation_images(datasets),
        false => BTreeSet::new(),
    };
    let zeros = vec![0; datasets.len()];
    let mut mix = TrainingMix { refs: Vec::new(), n_leaking: zeros.clone(), n_without_expression: zeros };
    for (position, dataset) in datasets.iter().enumerate() {
        for index in dataset.split("train")? {
            let reference = &dataset.refs[index];
            let leaks = || image_key(dataset, reference.image_id).is_some_and(|key| evaluated.contains(&key));
            if reference.expressions.is_empty() {
                mix.n_without_expression[position] += 1;
            } else if leaks() {
                mix.n_leaking[position] += 1;
            } else {
                mix.refs.push(RefAt { dataset: position, index });
            }
        }
    }
    Ok(mix)
}

/// Pictures of a mix that some evaluation split of the data sets has too.
pub fn leaked_images(datasets: &[Dataset], mix: &TrainingMix) -> BTreeSet<ImageKey> {
    let evaluated = evaluation_images(datasets);
    let trained = mix.refs.iter().filter_map(|at| {
        let dataset = &datasets[at.dataset];
        image_key(dataset, dataset.refs[at.index].image_id)
    });
    trained.filter(|key| evaluated.contains(key)).collect()
}
