//! Draws the order of the refs and the expressions of each sample. Both depend only on the seed, the epoch and the ref, so
//! neither the number of threads nor resuming a run changes them.

use std::collections::BTreeMap;

use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use serde::{Deserialize, Serialize};

use crate::annotation::Ref;
use crate::dataset::Dataset;
use crate::loader::RefAt;

/// The expressions of one training sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expressions {
    /// Random expression of the ref.
    pub anchor: String,
    /// Another expression of the same ref. If there is no other: the anchor with a full stop appended.
    pub positive: String,
    /// Expression of another object in the same image, if there is one.
    pub negative: Option<String>,
}

/// Which object of the image a negative expression is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Negatives {
    /// Any other object, as published.
    #[default]
    AnyObject,
    /// Another object of the target's category; where there is none, any other object.
    SameCategory,
}

/// Seeded RNG for one purpose. Streams with different labels are independent of each other.
pub fn stream(seed: u64, label: [u64; 3]) -> ChaCha8Rng {
    let mut key = [0; 32];
    for (chunk, value) in key.chunks_exact_mut(8).zip([seed, label[0], label[1], label[2]]) {
        chunk.copy_from_slice(&value.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// Random order in which an epoch (counted from 0) visits `n` refs.
pub fn epoch_order(seed: u64, epoch: u64, n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    order.shuffle(&mut stream(seed, [0, epoch, 0]));
    order
}

/// Brings refs of the same image together, so that a batch holds rivals: expressions about different objects of one image. Behind
/// each ref follow up to `at_most - 1` refs of its image that the order has not visited yet, those of its category first. Every
/// ref is still visited once.
///
/// - refs: the refs that the order counts
/// - order: an order of all of them
pub fn with_rivals(datasets: &[Dataset], refs: &[RefAt], order: &[usize], at_most: usize) -> Vec<usize> {
    if at_most <= 1 {
        return order.to_vec();
    }
    let reference = |index: usize| &datasets[refs[index].dataset].refs[refs[index].index];
    let image = |index: usize| (refs[index].dataset, reference(index).image_id);
    let mut in_image: BTreeMap<(usize, i64), Vec<usize>> = BTreeMap::new();
    for &index in order {
        in_image.entry(image(index)).or_default().push(index);
    }
    let mut visited = vec![false; refs.len()];
    let mut grouped = Vec::with_capacity(order.len());
    for &first in order {
        if visited[first] {
            continue;
        }
        let mut rivals: Vec<usize> = in_image[&image(first)]
            .iter()
            .copied()
            .filter(|&other| !visited[other] && other != first)
            .collect();
        // Stable, so that the order decides among those of the category, and among the others.
        rivals.sort_by_key(|&other| reference(other).category_ids != reference(first).category_ids);
        for index in std::iter::once(first).chain(rivals.into_iter().take(at_most - 1)) {
            visited[index] = true;
            grouped.push(index);
        }
    }
    grouped
}

/// Draws the expressions of a ref for one epoch; `None` if it has no expression.
///
/// Unlike the official code on merged data (quirk Q19), a negative never describes the same object: refs that share a target
/// are skipped.
pub fn draw_expressions(
    dataset: &Dataset,
    reference: &Ref,
    negatives: Negatives,
    (seed, epoch): (u64, u64),
) -> Option<Expressions> {
    let mut rng = stream(seed, [1, epoch, reference.ref_id as u64]);
    let own = &reference.expressions;
    if own.is_empty() {
        return None;
    }
    let chosen = rng.random_range(0..own.len());
    let anchor = own[chosen].sent.clone();
    let positive = if own.len() > 1 {
        let other = (chosen + rng.random_range(1..own.len())) % own.len();
        own[other].sent.clone()
    } else {
        format!("{anchor}.")
    };
    let mut others: Vec<&Ref> = dataset
        .refs_in_image(reference.image_id)
        .iter()
        .map(|&index| &dataset.refs[index])
        .filter(|other| {
            !other.shares_target(reference)
                && other.ref_id != reference.ref_id
                && !other.expressions.is_empty()
        })
        .collect();
    let is_rival = |other: &&Ref| other.category_ids == reference.category_ids;
    if negatives == Negatives::SameCategory && others.iter().any(is_rival) {
        others.retain(is_rival);
    }
    let negative = others.choose(&mut rng).and_then(|other| other.expressions.choose(&mut rng));
    Some(Expressions { anchor, positive, negative: negative.map(|expression| expression.sent.clone()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_visits_everything_once_in_an_order_of_its_own() {
        let first = epoch_order(7, 0, 50);
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..50).collect::<Vec<_>>());
        assert_eq!(first, epoch_order(7, 0, 50));
        assert_ne!(first, epoch_order(7, 1, 50));
        assert_ne!(first, epoch_order(8, 0, 50));
    }
}
