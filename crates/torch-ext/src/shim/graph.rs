//! Binding of `csrc/cuda_graph.cpp`, a shared library that is loaded on demand.

use std::ffi::{c_char, c_int, c_void};
use std::sync::OnceLock;

use libloading::Library;
use tch::Device;

use super::{ShimError, check, device_index};
use crate::cuda_graph::graphs_library;

type OnGraph = unsafe extern "C" fn(*mut c_void) -> *mut c_char;

/// Functions of the shared library.
struct Functions {
    leave_default_stream: unsafe extern "C" fn(c_int) -> *mut c_char,
    begin: unsafe extern "C" fn(*mut *mut c_void) -> *mut c_char,
    end: OnGraph,
    replay: OnGraph,
    free: unsafe extern "C" fn(*mut c_void),
}

/// Loads the library once. It is never unloaded, because graphs use its code.
fn functions() -> Result<&'static Functions, ShimError> {
    static FUNCTIONS: OnceLock<Result<Functions, ShimError>> = OnceLock::new();
    let load = || {
        let path = graphs_library().ok_or_else(|| {
            ShimError("this build cannot record CUDA graphs; build with the feature cuda-graphs".into())
        })?;
        let failed = |error: libloading::Error| ShimError(format!("{}: {error}", path.display()));
        // SAFETY: the library is built from `csrc/cuda_graph.cpp`: it has no initialisers with side effects, and its functions
        // have these types.
        unsafe {
            let library: &'static Library = Box::leak(Box::new(Library::new(&path).map_err(failed)?));
            Ok(Functions {
                leave_default_stream: *library.get(b"talent_graph_leave_default_stream\0").map_err(failed)?,
                begin: *library.get(b"talent_graph_begin\0").map_err(failed)?,
                end: *library.get(b"talent_graph_end\0").map_err(failed)?,
                replay: *library.get(b"talent_graph_replay\0").map_err(failed)?,
                free: *library.get(b"talent_graph_free\0").map_err(failed)?,
            })
        }
    };
    FUNCTIONS.get_or_init(load).as_ref().map_err(Clone::clone)
}

/// Owning handle of an `at::cuda::CUDAGraph`.
#[derive(Debug)]
pub(crate) struct RawGraph(*mut c_void);

impl RawGraph {
    pub(crate) fn leave_default_stream(device: Device) -> Result<(), ShimError> {
        // SAFETY: no pointers.
        check(unsafe { (functions()?.leave_default_stream)(device_index(device)) })
    }

    pub(crate) fn begin() -> Result<Self, ShimError> {
        let mut graph = std::ptr::null_mut();
        // SAFETY: the pointer is valid for writes.
        check(unsafe { (functions()?.begin)(&mut graph) })?;
        Ok(Self(graph))
    }

    pub(crate) fn end(&self) -> Result<(), ShimError> {
        // SAFETY: made by `begin`.
        check(unsafe { (functions()?.end)(self.0) })
    }

    pub(crate) fn replay(&self) -> Result<(), ShimError> {
        // SAFETY: made by `begin`.
        check(unsafe { (functions()?.replay)(self.0) })
    }
}

impl Drop for RawGraph {
    fn drop(&mut self) {
        if let Ok(functions) = functions() {
            // SAFETY: made by `begin`, freed once.
            unsafe { (functions.free)(self.0) }
        }
    }
}
