//! Memory of the process. The allocator also serves libtorch, whose tensors are most of it: the system's allocator gives
//! large blocks back at once, and every step would fault all their pages in anew.
#![allow(unsafe_code)]

use std::ffi::c_long;

use libmimalloc_sys::{mi_collect, mi_option_get, mi_option_set, mi_option_set_default, mi_option_t};

/// `mi_option_purge_delay`, which the bindings do not name: milliseconds after which freed memory goes back.
const PURGE_DELAY: mi_option_t = 15;
/// Longer than most steps take, so that a step finds the memory of the one before.
const LONG: c_long = 10_000;

/// Keeps freed memory for the next step, unless the environment says how long (`MIMALLOC_PURGE_DELAY`).
pub fn keep_memory_between_steps() {
    // SAFETY: sets a number that the allocator reads.
    unsafe { mi_option_set_default(PURGE_DELAY, LONG) }
}

/// Runs something with all freed memory given back to the system, before and as it goes, so that what is resident is what is
/// in use.
pub(crate) fn giving_back<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: may be called at any time; the numbers are one that the allocator reads.
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
