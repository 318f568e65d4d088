//! Settings of the memory allocator, which also serves libtorch: tensors are most of the memory. The system's allocator returns
//! large blocks to the kernel at once, so every step would page-fault all of them in again.
#![allow(unsafe_code)]

use std::ffi::c_long;

use libmimalloc_sys::{mi_collect, mi_option_get, mi_option_set, mi_option_set_default, mi_option_t};

/// `mi_option_purge_delay`, which the bindings do not name: milliseconds until freed memory is returned to the system.
const PURGE_DELAY: mi_option_t = 15;
/// Purge delay in milliseconds. Longer than most steps take, so that a step reuses the memory of the previous one.
const DELAY_MS: c_long = 10_000;

/// Keeps freed memory for the next step, unless the environment variable `MIMALLOC_PURGE_DELAY` sets another delay.
pub fn keep_memory_between_steps() {
    // SAFETY: sets a number that the allocator reads.
    unsafe { mi_option_set_default(PURGE_DELAY, DELAY_MS) }
}

/// Runs `work` with all freed memory returned to the system, before and during the work, so that resident memory equals memory
/// in use.
pub(crate) fn giving_back<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: these functions may be called at any time; they read and set a number that the allocator reads.
    let usual = unsafe {
        let usual = mi_option_get(PURGE_DELAY);
        mi_option_set(PURGE_DELAY, 0);
        mi_collect(true);
        usual
    };
    let result = work();
    // SAFETY: as above.
    unsafe { mi_option_set(PURGE_DELAY, usual) }
    result
}
