//! Memory of the process. The allocator also serves libtorch, whose tensors are most of it: the system's allocator gives
//! large blocks back at once, and every step would fault all their pages in anew.
#![allow(unsafe_code)]

use std::ffi::c_long;

use libmimalloc_sys::{mi_collect, mi_option_set_default, mi_option_t};

/// `mi_option_purge_delay`, which the bindings do not name: milliseconds after which freed memory goes back.
const PURGE_DELAY: mi_option_t = 15;
/// Longer than most steps take, so that a step finds the memory of the one before.
const LONG: c_long = 10_000;

/// Keeps freed memory for the next step, unless the environment says how long (`MIMALLOC_PURGE_DELAY`).
pub fn keep_memory_between_steps() {
    // SAFETY: sets a number that the allocator reads.
    unsafe { mi_option_set_default(PURGE_DELAY, LONG) }
}

/// Gives all freed memory back to the system.
pub(crate) fn give_back() {
    // SAFETY: may be called at any time.
    unsafe { mi_collect(true) }
}
