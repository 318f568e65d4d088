//! Declarations of the C interface in `csrc` and safe wrappers. All `unsafe` code of this crate is here.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::ManuallyDrop;
use std::path::Path;
use std::time::Duration;

use tch::Tensor;
use torch_sys::C_tensor;

use crate::Error;

unsafe extern "C" {
    fn talent_c10d_store(
        host: *const c_char,
        port: c_int,
        serves: c_int,
        timeout_ms: i64,
        result: *mut *mut c_void,
    ) -> *mut c_char;
    fn talent_c10d_store_port(store: *mut c_void) -> c_int;
    fn talent_c10d_store_set(store: *mut c_void, key: *const c_char, data: *const u8, n: i64) -> *mut c_char;
    fn talent_c10d_store_get(
        store: *mut c_void,
        key: *const c_char,
        timeout_ms: i64,
        data: *mut *mut u8,
        n: *mut i64,
    ) -> *mut c_char;
    fn talent_c10d_store_free(store: *mut c_void);
    #[cfg(feature = "gloo")]
    fn talent_c10d_gloo(
        store: *mut c_void,
        prefix: *const c_char,
        rank: c_int,
        size: c_int,
        timeout_ms: i64,
        interface: *const c_char,
        address: *const c_char,
        result: *mut *mut c_void,
    ) -> *mut c_char;
    fn talent_c10d_all_reduce(group: *mut c_void, xs: *mut C_tensor, op: c_int) -> *mut c_char;
    fn talent_c10d_all_reduce_start(
        group: *mut c_void,
        xs: *mut C_tensor,
        op: c_int,
        work: *mut *mut c_void,
    ) -> *mut c_char;
    fn talent_c10d_work_wait(work: *mut c_void) -> *mut c_char;
    fn talent_c10d_work_free(work: *mut c_void);
    fn talent_c10d_broadcast(group: *mut c_void, xs: *mut C_tensor, root: i64) -> *mut c_char;
    fn talent_c10d_all_gather(
        group: *mut c_void,
        xs: *mut C_tensor,
        results: *const *mut C_tensor,
        n: i64,
    ) -> *mut c_char;
    fn talent_c10d_barrier(group: *mut c_void) -> *mut c_char;
    fn talent_c10d_group_free(group: *mut c_void);
    fn talent_c10d_free(memory: *mut c_void);
}

/// Type of `talent_c10d_nccl` in `csrc/nccl.cpp`: store, prefix, rank, size, time-out in milliseconds, result.
type MakeNccl =
    unsafe extern "C" fn(*mut c_void, *const c_char, c_int, c_int, i64, *mut *mut c_void) -> *mut c_char;

fn check(message: *mut c_char) -> Result<(), Error> {
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: the shim returns NUL-terminated strings from malloc, and each is freed here once.
    let text = unsafe {
        let text = CStr::from_ptr(message).to_string_lossy().into_owned();
        talent_c10d_free(message.cast());
        text
    };
    Err(Error::Libtorch(text.lines().next().unwrap_or_default().to_owned()))
}

/// Milliseconds, at most about 24 days, because libtorch holds some times in 32 bits.
fn milliseconds(time: Duration) -> i64 {
    i32::try_from(time.as_millis()).unwrap_or(i32::MAX).into()
}

fn c_string(text: &str) -> Result<CString, Error> {
    CString::new(text).map_err(|_| Error::Rendezvous(format!("{text:?} holds a zero byte")))
}

fn handle(xs: &Tensor) -> *mut C_tensor {
    xs.as_ptr().cast_mut()
}

/// Connection to a `c10d` key-value store; on rank 0 it also runs the server. It is thread-safe.
#[derive(Debug)]
pub(crate) struct RawStore(*mut c_void);

// SAFETY: `c10d::TCPStore` takes a lock in each of its operations.
unsafe impl Send for RawStore {}
// SAFETY: as above.
unsafe impl Sync for RawStore {}

impl Drop for RawStore {
    fn drop(&mut self) {
        // SAFETY: made by the shim, freed once.
        unsafe { talent_c10d_store_free(self.0) }
    }
}

impl RawStore {
    pub(crate) fn new(host: &str, port: u16, serves: bool, timeout: Duration) -> Result<Self, Error> {
        let host = c_string(host)?;
        let mut result = std::ptr::null_mut();
        // SAFETY: the pointers are valid during the call.
        check(unsafe {
            talent_c10d_store(
                host.as_ptr(),
                c_int::from(port),
                c_int::from(serves),
                milliseconds(timeout),
                &mut result,
            )
        })?;
        Ok(Self(result))
    }

    pub(crate) fn port(&self) -> u16 {
        // SAFETY: a valid handle.
        u16::try_from(unsafe { talent_c10d_store_port(self.0) }).unwrap_or(0)
    }

    pub(crate) fn set(&self, key: &str, value: &[u8]) -> Result<(), Error> {
        let key = c_string(key)?;
        // SAFETY: the pointers are valid during the call.
        check(unsafe { talent_c10d_store_set(self.0, key.as_ptr(), value.as_ptr(), value.len() as i64) })
    }

    pub(crate) fn get(&self, key: &str, timeout: Duration) -> Result<Vec<u8>, Error> {
        let key = c_string(key)?;
        let (mut data, mut n) = (std::ptr::null_mut(), 0);
        // SAFETY: the pointers are valid during the call; the shim returns n bytes from malloc, copied and freed here once.
        unsafe {
            check(talent_c10d_store_get(self.0, key.as_ptr(), milliseconds(timeout), &mut data, &mut n))?;
            let value = std::slice::from_raw_parts(data, usize::try_from(n).unwrap_or(0)).to_vec();
            talent_c10d_free(data.cast());
            Ok(value)
        }
    }
}

/// A process group of `c10d`.
#[derive(Debug)]
pub(crate) struct RawGroup(*mut c_void);

// SAFETY: `c10d::Backend` may be used from any thread; `Group` serialises the collective operations.
unsafe impl Send for RawGroup {}
// SAFETY: as above.
unsafe impl Sync for RawGroup {}

impl Drop for RawGroup {
    fn drop(&mut self) {
        // SAFETY: made by the shim, freed once.
        unsafe { talent_c10d_group_free(self.0) }
    }
}

impl RawGroup {
    #[cfg(feature = "gloo")]
    pub(crate) fn gloo(
        (store, prefix): (&RawStore, &str),
        (rank, size): (usize, usize),
        timeout: Duration,
        interface: &str,
        address: &str,
    ) -> Result<Self, Error> {
        let (prefix, interface, address) = (c_string(prefix)?, c_string(interface)?, c_string(address)?);
        let mut result = std::ptr::null_mut();
        // SAFETY: the pointers are valid during the call.
        check(unsafe {
            talent_c10d_gloo(
                store.0,
                prefix.as_ptr(),
                rank as c_int,
                size as c_int,
                milliseconds(timeout),
                interface.as_ptr(),
                address.as_ptr(),
                &mut result,
            )
        })?;
        Ok(Self(result))
    }

    /// Creates an NCCL process group.
    ///
    /// - library: shared library with `talent_c10d_nccl`. It is never unloaded, because the group uses its code
    pub(crate) fn nccl(
        library: &Path,
        (store, prefix): (&RawStore, &str),
        (rank, size): (usize, usize),
        timeout: Duration,
    ) -> Result<Self, Error> {
        let failed = |error: libloading::Error| Error::Libtorch(format!("{}: {error}", library.display()));
        let prefix = c_string(prefix)?;
        let mut result = std::ptr::null_mut();
        // SAFETY: the library is built from `csrc/nccl.cpp`: it has no initialisers with side effects, and its function has
        // this type; the pointers are valid during the call.
        check(unsafe {
            let library = ManuallyDrop::new(libloading::Library::new(library).map_err(failed)?);
            let make = library.get::<MakeNccl>(b"talent_c10d_nccl\0").map_err(failed)?;
            make(store.0, prefix.as_ptr(), rank as c_int, size as c_int, milliseconds(timeout), &mut result)
        })?;
        Ok(Self(result))
    }

    pub(crate) fn all_reduce(&self, xs: &Tensor, op: c_int) -> Result<(), Error> {
        // SAFETY: valid handles.
        check(unsafe { talent_c10d_all_reduce(self.0, handle(xs), op) })
    }

    pub(crate) fn start_all_reduce(&self, xs: &Tensor, op: c_int) -> Result<RawWork, Error> {
        let mut work = std::ptr::null_mut();
        // SAFETY: valid handles; the shim stores a new handle, which is freed once.
        check(unsafe { talent_c10d_all_reduce_start(self.0, handle(xs), op, &mut work) })?;
        Ok(RawWork(work))
    }

    pub(crate) fn broadcast(&self, xs: &Tensor, root: usize) -> Result<(), Error> {
        // SAFETY: valid handles.
        check(unsafe { talent_c10d_broadcast(self.0, handle(xs), root as i64) })
    }

    pub(crate) fn all_gather(&self, xs: &Tensor, results: &[Tensor]) -> Result<(), Error> {
        let handles: Vec<*mut C_tensor> = results.iter().map(handle).collect();
        // SAFETY: valid handles, and an array of them.
        check(unsafe { talent_c10d_all_gather(self.0, handle(xs), handles.as_ptr(), handles.len() as i64) })
    }

    pub(crate) fn barrier(&self) -> Result<(), Error> {
        // SAFETY: a valid handle.
        check(unsafe { talent_c10d_barrier(self.0) })
    }
}

/// Owning handle of a running operation.
#[derive(Debug)]
pub(crate) struct RawWork(*mut c_void);

// SAFETY: `c10d::Work` may be waited for from any thread.
unsafe impl Send for RawWork {}

impl Drop for RawWork {
    fn drop(&mut self) {
        // SAFETY: made by the shim, freed once.
        unsafe { talent_c10d_work_free(self.0) }
    }
}

impl RawWork {
    pub(crate) fn wait(&self) -> Result<(), Error> {
        // SAFETY: a valid handle.
        check(unsafe { talent_c10d_work_wait(self.0) })
    }
}
