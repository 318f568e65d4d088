//! Threads for libtorch's parallel regions, in the place of those of GNU's OpenMP library.
//!
//! A training step on the CPU has thousands of parallel regions. GNU's library gives each thread its part and waits for all of them,
//! busily. Where another program uses one of the processors, every region waits for a thread that is off its processor, up to fifty
//! times as long as the work takes. Here
//!
//! - parts belong to nobody: whoever has time takes the next one. The parts are the same, and so are results, to the last bit;
//! - a thread that other programs kept off its processor for a quarter of the last 50 ms leaves parts to the others and does not wait
//!   busily, for 0.2 to 5 s.
//!
//! A program that calls [`install`] contains the symbols of the OpenMP interface that libtorch uses, and the dynamic linker prefers them
//! to those of the library. Linux only, where libtorch uses GNU's library.
#![allow(unsafe_code)]

use std::ffi::c_int;

unsafe extern "C" {
    fn openmp_pool_install(threads: c_int);
}

/// Makes this program's parallel regions run here, with `threads` threads where neither it nor `OMP_NUM_THREADS` says
/// another number. To be called before
/// the first of them.
pub fn install(threads: usize) {
    let threads = c_int::try_from(threads).unwrap_or(c_int::MAX);
    // SAFETY: stores a number.
    unsafe { openmp_pool_install(threads) }
}
