//! Draws the order of the refs and the expressions of each sample. Both depend only on the seed, the epoch and the ref, so
//! neither the number of threads nor resuming a run changes them.

use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::annotation::Ref;
use crate::dataset::Dataset;

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

/// Draws the expressions of a ref for one epoch; `None` if it has no expression.
///
/// Unlike the official code on merged data (quirk Q19), a negative never describes the same object: refs that share a target
/// are skipped.
pub fn draw_expressions(dataset: &Dataset, reference: &Ref, seed: u64, epoch: u64) -> Option<Expressions> {
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
    let others: Vec<&Ref> = dataset
        .refs_in_image(reference.image_id)
        .iter()
        .map(|&index| &dataset.refs[index])
        .filter(|other| {
            !other.shares_target(reference)
                && other.ref_id != reference.ref_id
                && !other.expressions.is_empty()
        })
        .collect();
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
