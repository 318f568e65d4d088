//! Hooks that run as soon as a parameter's gradient is complete.

use tch::Tensor;

use crate::shim::ShimError;
use crate::shim::hooks::RawHooks;

/// Hooks on parameters, as PyTorch's `register_post_accumulate_grad_hook`. Dropping this value removes them.
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use tch::{Kind, Tensor};
/// use torch_ext::GradientHooks;
///
/// let parameters = [1.0_f32, 2.0].map(|value| Tensor::from(value).set_requires_grad(true));
/// let seen = Arc::new(Mutex::new(Vec::new()));
/// let noting = Arc::clone(&seen);
/// let hooks = GradientHooks::new(&parameters, move |place| noting.lock().unwrap().push(place))?;
/// (&parameters[0] * 3.0 + &parameters[0]).backward();
/// assert_eq!(*seen.lock().unwrap(), [0]);
/// drop(hooks);
/// parameters[1].square().backward();
/// assert_eq!(*seen.lock().unwrap(), [0]);
/// # Ok::<(), torch_ext::ShimError>(())
/// ```
#[derive(Debug)]
pub struct GradientHooks(#[allow(dead_code, reason = "held for its hooks")] RawHooks);

impl GradientHooks {
    /// Registers a hook on each parameter.
    ///
    /// - parameters: leaf tensors that require a gradient
    /// - done: called with a parameter's index in the list, once per backward pass, when the pass has accumulated all of
    ///   `grad`. It runs on the backward pass's thread, which waits for it. A panic in it makes the backward pass fail
    ///
    /// # Errors
    /// When a tensor is not a leaf that requires a gradient.
    pub fn new(parameters: &[Tensor], done: impl Fn(usize) + Send + 'static) -> Result<Self, ShimError> {
        Ok(Self(RawHooks::new(parameters, Box::new(done))?))
    }
}
