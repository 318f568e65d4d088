//! Encoded pictures of data sets that were shown, in bounded memory: the oldest go first.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Which picture of which data set, and how large.
pub(crate) type ThumbnailKey = (usize, i64, usize);

#[derive(Debug, Default)]
struct Kept {
    bytes: usize,
    pictures: VecDeque<(ThumbnailKey, Arc<Vec<u8>>)>,
}

#[derive(Debug, Default)]
pub(crate) struct Thumbnails(Mutex<Kept>);

/// Bytes of encoded pictures that are kept.
const MAX_THUMBNAILS: usize = 64 << 20;

impl Thumbnails {
    pub(crate) fn get(&self, key: ThumbnailKey) -> Option<Arc<Vec<u8>>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.pictures.iter().rev().find(|(other, _)| *other == key).map(|(_, bytes)| Arc::clone(bytes))
    }

    pub(crate) fn keep(&self, key: ThumbnailKey, bytes: Vec<u8>) -> Arc<Vec<u8>> {
        let bytes = Arc::new(bytes);
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.bytes += bytes.len();
        kept.pictures.push_back((key, Arc::clone(&bytes)));
        while kept.bytes > MAX_THUMBNAILS {
            let Some((_, oldest)) = kept.pictures.pop_front() else { break };
            kept.bytes -= oldest.len();
        }
        bytes
    }
}
