//! Detects identical pictures across data sets with different image ids.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use rayon::prelude::*;

use crate::dataset::Dataset;
use crate::descriptor::AnnotationFormat;

/// Identifies a picture across data sets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PictureKey {
    /// A photo of a published collection: file name without folders, width, height.
    Photo(String, usize, usize),
    /// Any file: its length in bytes, and a hash of its content. The hash is 0 if no other file has this length.
    Content(u64, u64),
}

/// Keys of the pictures that refs are in, by image id, for each data set. Pictures are the same if they share a key.
///
/// - Published collections (COCO, SAIAPR) are compared with each other by file name and size: names are unique there.
/// - Own data is compared by content, with itself and with everything else: names such as `0001.png` say nothing.
///
/// A picture whose file cannot be read has no content key.
pub(crate) fn picture_keys(datasets: &[Dataset]) -> Vec<BTreeMap<i64, Vec<PictureKey>>> {
    let ids: Vec<(usize, i64)> = datasets
        .iter()
        .enumerate()
        .flat_map(|(position, dataset)| {
            let ids: BTreeSet<i64> = dataset.refs.iter().map(|reference| reference.image_id).collect();
            ids.into_iter().map(move |id| (position, id))
        })
        .collect();
    let is_own = |position: usize| datasets[position].descriptor.format == AnnotationFormat::Own;
    let any_own = (0..datasets.len()).any(is_own);
    let mut keys: Vec<BTreeMap<i64, Vec<PictureKey>>> = vec![BTreeMap::new(); datasets.len()];
    for &(position, id) in &ids {
        let photo = if is_own(position) { None } else { photo_key(&datasets[position], id) };
        keys[position].insert(id, photo.into_iter().collect());
    }
    if !any_own {
        return keys;
    }
    let lengths: Vec<((usize, i64), u64)> = ids
        .into_par_iter()
        .filter_map(|(position, id)| Some(((position, id), datasets[position].image_len(id)?)))
        .collect();
    let mut n_of_length: BTreeMap<u64, (usize, bool)> = BTreeMap::new();
    for ((position, _), length) in &lengths {
        let (n, own) = n_of_length.entry(*length).or_default();
        *n += 1;
        *own |= is_own(*position);
    }
    let contents: Vec<((usize, i64), PictureKey)> = lengths
        .into_par_iter()
        .filter(|(_, length)| n_of_length[length].1)
        .filter_map(|((position, id), length)| {
            let hash = match n_of_length[&length].0 {
                1 => 0,
                _ => content_hash(&datasets[position].image_bytes(id).ok()?),
            };
            Some(((position, id), PictureKey::Content(length, hash)))
        })
        .collect();
    for ((position, id), key) in contents {
        keys[position].entry(id).or_default().push(key);
    }
    keys
}

fn photo_key(dataset: &Dataset, image_id: i64) -> Option<PictureKey> {
    let record = dataset.instances.images.get(&image_id)?;
    let name = record.file_name.rsplit(['/', '\\']).next().unwrap_or_default();
    Some(PictureKey::Photo(name.to_owned(), record.width, record.height))
}

fn content_hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    // 0 is reserved for files of a unique length, which need no hash.
    hasher.finish().max(1)
}
