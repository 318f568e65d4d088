use std::sync::{Arc, Mutex};

/// Two buffers a batch, for the batches that are in flight at once.
const MAX_SPARE: usize = 8;

/// Pixel buffers of batches that were dropped, for the next ones. A batch of the official size takes 98 MiB; a fresh one of that
/// size costs more time in page faults than some stages take. Clones share the buffers.
#[derive(Debug, Clone, Default)]
pub struct Buffers(Arc<Mutex<Vec<Vec<f32>>>>);

/// Batches are equal whatever memory they came from.
impl PartialEq for Buffers {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Buffers {
    /// A buffer of this length with arbitrary values.
    pub(crate) fn take(&self, len: usize) -> Vec<f32> {
        let spare = self.0.lock().ok().and_then(|mut spare| {
            let found = spare.iter().position(|buffer| buffer.len() == len)?;
            Some(spare.swap_remove(found))
        });
        spare.unwrap_or_else(|| vec![0.0; len])
    }

    pub(crate) fn give_back(&self, buffers: [Vec<f32>; 2]) {
        if let Ok(mut spare) = self.0.lock() {
            spare.extend(buffers);
            // The oldest first: they may be of a size that is no longer in use.
            let excess = spare.len().saturating_sub(MAX_SPARE);
            spare.drain(..excess);
        }
    }
}
