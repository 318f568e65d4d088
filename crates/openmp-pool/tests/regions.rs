//! Regions and their constructs, called as compiled OpenMP code calls them.
#![allow(missing_docs, unsafe_code)]

use std::ffi::{c_int, c_long, c_uint, c_void};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering::SeqCst};

unsafe extern "C" {
    fn GOMP_parallel(body: extern "C" fn(*mut c_void), data: *mut c_void, threads: c_uint, flags: c_uint);
    fn GOMP_barrier();
    fn GOMP_single_start() -> bool;
    fn GOMP_critical_start();
    fn GOMP_critical_end();
    fn GOMP_critical_name_start(word: *mut *mut c_void);
    fn GOMP_critical_name_end(word: *mut *mut c_void);
    fn GOMP_loop_dynamic_start(
        start: c_long,
        end: c_long,
        step: c_long,
        chunk: c_long,
        first: *mut c_long,
        behind: *mut c_long,
    ) -> bool;
    fn GOMP_loop_dynamic_next(first: *mut c_long, behind: *mut c_long) -> bool;
    fn GOMP_loop_end();
    fn GOMP_loop_end_nowait();
    fn GOMP_loop_ordered_dynamic_start(
        start: c_long,
        end: c_long,
        step: c_long,
        chunk: c_long,
        first: *mut c_long,
        behind: *mut c_long,
    ) -> bool;
    fn GOMP_loop_ordered_dynamic_next(first: *mut c_long, behind: *mut c_long) -> bool;
    fn GOMP_ordered_start();
    fn GOMP_ordered_end();
    fn GOMP_sections_start(count: c_uint) -> c_uint;
    fn GOMP_sections_next() -> c_uint;
    fn GOMP_sections_end_nowait();
    fn omp_get_thread_num() -> c_int;
    fn omp_get_num_threads() -> c_int;
    fn omp_get_max_threads() -> c_int;
    fn omp_set_num_threads(threads: c_int);
    fn omp_in_parallel() -> c_int;
}

/// Runs `body(part)` as a region of this many parts, 0 for as many as there are threads.
fn region<F: Fn(usize) + Sync>(parts: u32, body: F) {
    extern "C" fn call<F: Fn(usize) + Sync>(data: *mut c_void) {
        // SAFETY: the region ends before `body` does.
        let body = unsafe { &*data.cast::<F>() };
        body(unsafe { omp_get_thread_num() } as usize);
    }
    unsafe { GOMP_parallel(call::<F>, (&raw const body).cast_mut().cast(), parts, 0) }
}

/// Iterations of a loop with dynamic chunks that this part gets.
fn dynamic_loop(range: (c_long, c_long), step: c_long, chunk: c_long, mut body: impl FnMut(c_long)) {
    let (mut first, mut behind) = (0, 0);
    let mut some =
        unsafe { GOMP_loop_dynamic_start(range.0, range.1, step, chunk, &raw mut first, &raw mut behind) };
    while some {
        let mut i = first;
        while if step > 0 { i < behind } else { i > behind } {
            body(i);
            i += step;
        }
        some = unsafe { GOMP_loop_dynamic_next(&raw mut first, &raw mut behind) };
    }
}

#[test]
fn each_part_runs_once_in_every_region() {
    openmp_pool::install(3);
    for round in 0..20_000 {
        let parts = 1 + round % 5;
        let counts: [AtomicUsize; 5] = Default::default();
        region(parts as u32, |part| {
            counts[part].fetch_add(1, SeqCst);
            assert_eq!(unsafe { omp_get_num_threads() }, parts as c_int);
            assert_eq!(unsafe { omp_in_parallel() } != 0, parts > 1);
        });
        let counts = counts.map(AtomicUsize::into_inner);
        assert_eq!(counts.iter().sum::<usize>(), parts);
        assert!(counts.iter().all(|&count| count <= 1), "{counts:?}");
    }
    assert_eq!(unsafe { omp_get_num_threads() }, 1);
}

#[test]
fn barriers_hold_every_part() {
    for _ in 0..500 {
        let arrived = AtomicUsize::new(0);
        region(4, |_| {
            for step in 1..=5 {
                arrived.fetch_add(1, SeqCst);
                unsafe { GOMP_barrier() };
                assert!(arrived.load(SeqCst) >= 4 * step);
                unsafe { GOMP_barrier() };
            }
        });
    }
}

#[test]
fn numbers_of_threads() {
    std::thread::spawn(|| {
        unsafe { omp_set_num_threads(2) };
        assert_eq!(unsafe { omp_get_max_threads() }, 2);
        let parts = AtomicUsize::new(0);
        region(0, |_| {
            parts.fetch_add(1, SeqCst);
            assert_eq!(unsafe { omp_get_max_threads() }, 2);
            // A region inside a region has one part, and is still inside.
            region(3, |part| {
                assert_eq!((part, unsafe { omp_get_num_threads() }), (0, 1));
                assert!(unsafe { omp_in_parallel() } != 0);
            });
        });
        assert_eq!(parts.into_inner(), 2);
        unsafe { omp_set_num_threads(-1) };
        assert_eq!(unsafe { omp_get_max_threads() }, 1);
        // No more than a region gets, by which callers cut their work.
        unsafe { omp_set_num_threads(5000) };
        assert_eq!(unsafe { omp_get_max_threads() }, 1024);
    })
    .join()
    .unwrap();
}

#[test]
fn loops_single_sections_and_critical() {
    static mut NAMED: *mut c_void = std::ptr::null_mut();
    for round in 0..300 {
        let (sum, backward, singles, sections) =
            (AtomicI64::new(0), AtomicI64::new(0), AtomicUsize::new(0), AtomicI64::new(0));
        let (mut plain, mut named) = (0_u64, 0_u64);
        let counters = [(&raw mut plain) as usize, (&raw mut named) as usize];
        region(1 + round % 4, |_| {
            dynamic_loop((0, 100), 1, 7, |i| _ = sum.fetch_add(i, SeqCst));
            unsafe { GOMP_loop_end() };
            assert_eq!(sum.load(SeqCst), 4950);
            dynamic_loop((100, 0), -3, 2, |i| _ = backward.fetch_add(i, SeqCst));
            unsafe { GOMP_loop_end_nowait() };
            if unsafe { GOMP_single_start() } {
                singles.fetch_add(1, SeqCst);
            }
            let mut section = unsafe { GOMP_sections_start(3) };
            while section != 0 {
                sections.fetch_add(10_i64.pow(section), SeqCst);
                section = unsafe { GOMP_sections_next() };
            }
            unsafe { GOMP_sections_end_nowait() };
            // SAFETY: the critical sections make the additions exclusive.
            unsafe {
                GOMP_critical_start();
                *(counters[0] as *mut u64) += 1;
                GOMP_critical_end();
                GOMP_critical_name_start(&raw mut NAMED);
                *(counters[1] as *mut u64) += 1;
                GOMP_critical_name_end(&raw mut NAMED);
            }
        });
        assert_eq!(backward.into_inner(), (1..=100).rev().step_by(3).sum::<i64>());
        assert_eq!(singles.into_inner(), 1);
        assert_eq!(sections.into_inner(), 1110);
        assert_eq!([plain, named], [u64::from(1 + round % 4); 2]);
    }
}

#[test]
fn ordered_loops_keep_their_order() {
    for _ in 0..200 {
        let order = Mutex::new(Vec::new());
        region(3, |_| {
            let (mut first, mut behind) = (0, 0);
            let mut some =
                unsafe { GOMP_loop_ordered_dynamic_start(0, 50, 1, 4, &raw mut first, &raw mut behind) };
            while some {
                for i in first..behind {
                    unsafe { GOMP_ordered_start() };
                    order.lock().unwrap().push(i);
                    unsafe { GOMP_ordered_end() };
                }
                some = unsafe { GOMP_loop_ordered_dynamic_next(&raw mut first, &raw mut behind) };
            }
            unsafe { GOMP_loop_end() };
        });
        assert_eq!(order.into_inner().unwrap(), (0..50).collect::<Vec<_>>());
    }
}

#[test]
fn several_threads_have_regions_at_once() {
    let threads: Vec<_> = (0..4)
        .map(|_| {
            std::thread::spawn(|| {
                for _ in 0..2_000 {
                    let parts = AtomicUsize::new(0);
                    region(3, |_| _ = parts.fetch_add(1, SeqCst));
                    assert_eq!(parts.into_inner(), 3);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}
