use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex};

/// Maximum number of spare buffers: two per batch (images and masks), for the batches in flight at once.
const MAX_SPARE: usize = 8;

/// Pool of pixel buffers: a dropped batch returns its buffers for the next ones. A batch of the official size takes 98 MiB; the
/// page faults of newly allocated memory of that size take more time than some stages. Clones share the pool.
#[derive(Debug, Clone, Default)]
pub struct Buffers(Arc<Mutex<Vec<Vec<f32>>>>);

impl Buffers {
    /// Takes a buffer of `len` values from the pool, or allocates one. Its values are arbitrary.
    pub(crate) fn take(&self, len: usize) -> Pixels {
        let spare = self.0.lock().ok().and_then(|mut spare| {
            let found = spare.iter().position(|buffer| buffer.len() == len)?;
            Some(spare.swap_remove(found))
        });
        Pixels { values: spare.unwrap_or_else(|| vec![0.0; len]), pool: self.clone() }
    }

    fn give_back(&self, buffer: Vec<f32>) {
        if let Ok(mut spare) = self.0.lock() {
            spare.push(buffer);
            // Drops the oldest first: their size may no longer be in use.
            let excess = spare.len().saturating_sub(MAX_SPARE);
            spare.drain(..excess);
        }
    }
}

/// Pixels of a batch, row-major. Dropping them returns their memory to the [`Buffers`] it came from; [`Pixels::into_vec`] keeps
/// it.
#[derive(Debug, Clone, Default)]
pub struct Pixels {
    values: Vec<f32>,
    pool: Buffers,
}

impl Pixels {
    /// Converts to a `Vec` without copying. The memory does not return to the pool.
    pub fn into_vec(mut self) -> Vec<f32> {
        std::mem::take(&mut self.values)
    }

    pub(crate) fn truncate(&mut self, len: usize) {
        self.values.truncate(len);
    }
}

/// Pixels outside any pool: their memory is freed when they are dropped.
impl From<Vec<f32>> for Pixels {
    fn from(values: Vec<f32>) -> Self {
        Self { values, pool: Buffers::default() }
    }
}

impl FromIterator<f32> for Pixels {
    fn from_iter<I: IntoIterator<Item = f32>>(values: I) -> Self {
        values.into_iter().collect::<Vec<_>>().into()
    }
}

impl Drop for Pixels {
    fn drop(&mut self) {
        if !self.values.is_empty() {
            self.pool.give_back(std::mem::take(&mut self.values));
        }
    }
}

impl Deref for Pixels {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values
    }
}

impl DerefMut for Pixels {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }
}

/// Compares the values, not the pools.
impl PartialEq for Pixels {
    fn eq(&self, other: &Self) -> bool {
        self.values == other.values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_unless_it_is_kept() {
        let buffers = Buffers::default();
        let first = buffers.take(4);
        let place = first.as_ptr();
        drop(first);
        let again = buffers.take(4);
        assert_eq!(again.as_ptr(), place);
        let kept = again.into_vec();
        assert_eq!(kept.len(), 4);
        assert_ne!(buffers.take(4).as_ptr(), place);
    }
}
