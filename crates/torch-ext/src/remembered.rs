use std::cell::RefCell;

use tch::Tensor;

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
        match &*held {
            Some((known, tensor)) if *known == key => tensor.shallow_clone(),
            _ => {
                let tensor = tch::no_grad(make);
                *held = Some((key, tensor.shallow_clone()));
                tensor
            }
        }
    }
}
