//! Binding of `csrc/gradient_hooks.cpp`.

use std::ffi::{c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use tch::Tensor;
use torch_sys::C_tensor;

use super::{ShimError, check, pointers};

type Done = Box<dyn Fn(usize) + Send>;

unsafe extern "C" {
    fn talent_gradient_hooks(
        parameters: *const *mut C_tensor,
        n: i64,
        state: *mut c_void,
        done: extern "C" fn(*mut c_void, i64) -> c_int,
        release: extern "C" fn(*mut c_void),
        result: *mut *mut c_void,
    ) -> *mut c_char;
    fn talent_gradient_hooks_free(hooks: *mut c_void);
}

/// Owning handle of the C++ hooks. Dropping it removes them.
#[derive(Debug)]
pub(crate) struct RawHooks(*mut c_void);

// SAFETY: the C++ object holds graph nodes, whose reference counts are atomic, and the boxed closure, which is `Send`.
unsafe impl Send for RawHooks {}

impl Drop for RawHooks {
    fn drop(&mut self) {
        // SAFETY: made by the shim, freed once.
        unsafe { talent_gradient_hooks_free(self.0) }
    }
}

extern "C" fn call(state: *mut c_void, place: i64) -> c_int {
    // SAFETY: the box leaked by `RawHooks::new`, which lives until `release`.
    let done = unsafe { &*state.cast::<Done>() };
    // A panic must not cross into C++.
    catch_unwind(AssertUnwindSafe(|| done(usize::try_from(place).unwrap_or(0)))).map_or(1, |()| 0)
}

extern "C" fn release(state: *mut c_void) {
    // SAFETY: the box leaked by `RawHooks::new`, freed once.
    drop(unsafe { Box::from_raw(state.cast::<Done>()) });
}

impl RawHooks {
    pub(crate) fn new(parameters: &[Tensor], done: Done) -> Result<Self, ShimError> {
        let state = Box::into_raw(Box::new(done)).cast();
        let mut result = std::ptr::null_mut();
        // SAFETY: handles are valid during the call; the shim takes ownership of `state`, with the functions that know its
        // type.
        unsafe {
            check(talent_gradient_hooks(
                pointers(parameters).as_ptr(),
                parameters.len() as i64,
                state,
                call,
                release,
                &mut result,
            ))?;
        }
        Ok(Self(result))
    }
}
