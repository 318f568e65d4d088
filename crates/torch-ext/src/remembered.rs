use std::cell::RefCell;

use tch::Tensor;

/// A tensor that depends on a few sizes alone, and is computed anew only when these change.
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
    /// The tensor for a key, made without a gradient if the last one was for another key.
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
