//! Detects identical pictures across data sets with different image ids.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use rayon::prelude::*;

use crate::dataset::Dataset;
use crate::descriptor::AnnotationFormat;
use crate::file_spelling::{coco_number, spellings};

/// Identifies a picture across data sets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PictureKey {
    /// A photo of COCO: its number, width, height.
    Coco(String, usize, usize),
    /// A file of a published set, by the set's position and the file's name with its folders.
    Named(usize, String),
    /// Any file: its length in bytes, and a hash of its content. The hash is 0 if no other file has this length.
    Content(u64, u64),
}

/// Keys of the pictures that refs are in, by image id, for each data set. Pictures are the same if they share a key.
///
/// - Photos with COCO's names are compared by their number and size: `COCO_train2014_000000000009.jpg` of 2014 is
///   `000000000009.jpg` of 2017.
/// - Own data is compared by content, with itself and with everything else: names such as `0001.png` say nothing.
/// - Other published sets are compared with other sets by content, and within the set by name with its folders: `00/1.jpg` is not
///   `01/1.jpg`, and their splits are used as published.
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
    let mut keys: Vec<BTreeMap<i64, Vec<PictureKey>>> = vec![BTreeMap::new(); datasets.len()];
    let is_own = |position: usize| datasets[position].descriptor.format == AnnotationFormat::Own;
    let mut by_content = BTreeSet::new();
    for &(position, id) in &ids {
        let key = coco_key(&datasets[position], id).or_else(|| {
            if is_own(position) || datasets.len() > 1 {
                by_content.insert((position, id));
            }
            let record = datasets[position].instances.images.get(&id).filter(|_| !is_own(position))?;
            Some(PictureKey::Named(position, spellings(&record.file_name).pop()?))
        });
        keys[position].insert(id, key.into_iter().collect());
    }
    // Photos of COCO alone need no reading.
    if by_content.is_empty() {
        return keys;
    }
    let lengths: Vec<((usize, i64), u64)> = ids
        .into_par_iter()
        .filter_map(|(position, id)| Some(((position, id), datasets[position].image_len(id)?)))
        .collect();
    let mut n_of_length: BTreeMap<u64, (usize, bool)> = BTreeMap::new();
    for ((position, id), length) in &lengths {
        let (n, other) = n_of_length.entry(*length).or_default();
        *n += 1;
        *other |= by_content.contains(&(*position, *id));
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

fn coco_key(dataset: &Dataset, image_id: i64) -> Option<PictureKey> {
    if dataset.descriptor.format == AnnotationFormat::Own {
        return None;
    }
    let record = dataset.instances.images.get(&image_id)?;
    let base = record.file_name.rsplit(['/', '\\']).next().unwrap_or_default();
    Some(PictureKey::Coco(coco_number(base)?.to_owned(), record.width, record.height))
}

fn content_hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    // 0 is reserved for files of a unique length, which need no hash.
    hasher.finish().max(1)
}
