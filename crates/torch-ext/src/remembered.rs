use std::cell::RefCell;

use tch::Tensor;

thread_local! {
    /// Tensors served by caches of this thread, while [`served_during`] collects them.
    static SERVED: RefCell<Option<Vec<Tensor>>> = const { RefCell::new(None) };
}

/// Runs `work`. Also returns every tensor that a [`Remembered`] served meanwhile on this thread. Holding
/// them keeps their memory allocated, even when a cache computes another tensor afterwards.
pub(crate) fn served_during<T>(work: impl FnOnce() -> T) -> (T, Vec<Tensor>) {
    SERVED.set(Some(Vec::new()));
    let result = work();
    (result, SERVED.take().unwrap_or_default())
}

/// Cache of one tensor, recomputed only when its key changes (for example the sizes that it depends on).
///
/// ```
/// use tch::{Device, Kind, Tensor};
///
/// let codes = torch_ext::Remembered::default();
/// let of_length = |n: i64| codes.get(n, || Tensor::arange(n, (Kind::Float, Device::Cpu)));
/// assert_eq!(of_length(3).size(), [3]);
/// assert_eq!(of_length(3).size(), [3]); // no operation
/// ```
#[derive(Debug)]
pub struct Remembered<K>(RefCell<Option<(K, Tensor)>>);

impl<K> Default for Remembered<K> {
    fn default() -> Self {
        Self(RefCell::new(None))
    }
}

impl<K: PartialEq> Remembered<K> {
    /// Returns the tensor for a key. Computes it with `make`, without gradient, if the cached one is for another key.
    pub fn get(&self, key: K, make: impl FnOnce() -> Tensor) -> Tensor {
        let mut held = self.0.borrow_mut();
        let tensor = match &*held {
            Some((known, tensor)) if *known == key => tensor.shallow_clone(),
            _ => {
                let tensor = tch::no_grad(make);
                *held = Some((key, tensor.shallow_clone()));
                tensor
            }
        };
        SERVED.with_borrow_mut(|served| {
            if let Some(served) = served {
                served.push(tensor.shallow_clone());
            }
        });
        tensor
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn what_was_served_survives_its_cache() {
        let cache = Remembered::default();
        let of_length = |n: i64| cache.get(n, || Tensor::arange(n, (Kind::Float, Device::Cpu)));
        let (first, served) = served_during(|| of_length(3));
        assert_eq!(served.len(), 1);
        assert_eq!(of_length(4).numel(), 4);
        assert_eq!(served[0].data_ptr(), first.data_ptr());
        assert!(served_during(|| ()).1.is_empty());
    }
}
