//! Answers that can be returned to by their address, in bounded memory: the oldest go first.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};

use crate::failure::{Answered, Failure};
use crate::picture::Picture;

/// Bytes of pictures and probabilities that are kept.
const MAX_BYTES: usize = 512 << 20;
/// Number of answers that are kept.
const MAX_ANSWERS: usize = 200;

/// A prediction that was made.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: u64,
    /// Index of the model.
    pub(crate) model: usize,
    pub(crate) picture: Arc<Picture>,
    /// Name of the picture, as the user knows it.
    pub(crate) name: String,
    pub(crate) expression: String,
    /// What `predict` writes.
    pub(crate) fields: Map<String, Value>,
    pub(crate) probabilities: Vec<f32>,
    pub(crate) threshold: f32,
    /// Index of the data set, and `ref_id`, if the picture is from there and the target is known.
    pub(crate) of_ref: Option<(usize, i64)>,
}

#[derive(Debug, Default)]
struct Kept {
    next: u64,
    entries: VecDeque<Arc<Entry>>,
}

#[derive(Debug, Default)]
pub(crate) struct History(Mutex<Kept>);

impl History {
    /// Keeps an answer. `entry` receives its id.
    pub(crate) fn keep(&self, entry: impl FnOnce(u64) -> Entry) -> Arc<Entry> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Ids of an earlier start, which addresses may hold, are not given again.
        kept.next = (kept.next + 1).max(1000 * started_at());
        let mut entry = entry(kept.next);
        // Entries about one picture share it.
        if let Some(same) = kept.entries.iter().find(|one| one.picture.id == entry.picture.id) {
            entry.picture = Arc::clone(&same.picture);
        }
        let entry = Arc::new(entry);
        kept.entries.push_back(Arc::clone(&entry));
        while kept.entries.len() > MAX_ANSWERS || kept.entries.len() > 1 && bytes(&kept.entries) > MAX_BYTES {
            kept.entries.pop_front();
        }
        entry
    }

    pub(crate) fn get(&self, id: u64) -> Answered<Arc<Entry>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.entries.iter().find(|entry| entry.id == id);
        found.cloned().ok_or_else(|| {
            Failure::missing(format!(
                "answer {id} is not kept any more: the program was started anew, or it is too old"
            ))
        })
    }

    /// The picture with an id, if an answer about it is kept.
    pub(crate) fn picture(&self, id: &str) -> Option<(Arc<Picture>, String)> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.entries.iter().rev().find(|entry| entry.picture.id == id);
        found.map(|entry| (Arc::clone(&entry.picture), entry.name.clone()))
    }

    /// All answers, the latest first.
    pub(crate) fn all(&self) -> Vec<Arc<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entries.iter().rev().cloned().collect()
    }
}

/// Seconds since 1970 at the first answer.
fn started_at() -> u64 {
    static AT: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *AT.get_or_init(|| std::time::UNIX_EPOCH.elapsed().map_or(1, |time| time.as_secs().max(1)))
}

fn bytes(entries: &VecDeque<Arc<Entry>>) -> usize {
    let maps: usize = entries.iter().map(|entry| 4 * entry.probabilities.len()).sum();
    let mut pictures: Vec<(&str, usize)> =
        entries.iter().map(|entry| (entry.picture.id.as_str(), entry.picture.pixels.data.len())).collect();
    pictures.sort_unstable();
    pictures.dedup();
    maps + pictures.iter().map(|(_, size)| size).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use refcoco::RgbImage;

    use super::*;

    fn keep(history: &History, picture: &str, n: usize) -> Arc<Entry> {
        let pixels = RgbImage { width: 1, height: 1, data: vec![0; 3] };
        history.keep(|id| Entry {
            id,
            model: 0,
            picture: Arc::new(Picture { id: picture.into(), pixels, is_cut_short: false }),
            name: "a.jpg".into(),
            expression: "x".into(),
            fields: Map::new(),
            probabilities: vec![0.0; n],
            threshold: 0.5,
            of_ref: None,
        })
    }

    #[test]
    fn memory_is_bounded_and_pictures_are_shared() {
        let history = History::default();
        let first = keep(&history, "a", 1);
        assert!(Arc::ptr_eq(&first.picture, &keep(&history, "a", 1).picture));
        assert!(history.picture("a").is_some() && history.picture("b").is_none());
        for _ in 0..MAX_ANSWERS {
            keep(&history, "b", 1);
        }
        assert_eq!(history.all().len(), MAX_ANSWERS);
        assert!(history.get(first.id).is_err() && history.picture("a").is_none());
        keep(&history, "c", MAX_BYTES / 4 - 1);
        keep(&history, "d", MAX_BYTES / 4 - 1);
        assert_eq!(history.all().len(), 1);
    }
}
