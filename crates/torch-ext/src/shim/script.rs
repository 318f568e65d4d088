//! Binding of `csrc/script.cpp`.

use std::ffi::{CString, c_char, c_int, c_void};
use std::path::Path;

use tch::Tensor;
use torch_sys::C_tensor;

use super::{ShimError, check, pointers};

unsafe extern "C" {
    fn talent_trace_begin(
        names: *const *const c_char,
        tensors: *const *mut C_tensor,
        are_buffers: *const c_int,
        n: i64,
        pixels: *mut C_tensor,
        ids: *mut C_tensor,
        trace: *mut *mut c_void,
    ) -> *mut c_char;
    fn talent_trace_end(trace: *mut c_void, output: *mut C_tensor) -> *mut c_char;
    fn talent_trace_free(trace: *mut c_void);
    fn talent_trace_save(
        trace: *mut c_void,
        other: *mut c_void,
        path: *const c_char,
        note_name: *const c_char,
        note: *const c_char,
    ) -> *mut c_char;
}

/// Owning handle of a trace. While it is recording, it belongs to the thread that began it.
#[derive(Debug)]
pub(crate) struct RawTrace {
    trace: *mut c_void,
    is_recording: bool,
}

fn c_text(text: &str) -> Result<CString, ShimError> {
    CString::new(text).map_err(|_| ShimError(format!("{text:?} contains a NUL byte")))
}

impl RawTrace {
    /// - entries: name, tensor, and whether it is a buffer
    pub(crate) fn begin(
        entries: &[(String, Tensor, bool)],
        pixels: &Tensor,
        ids: &Tensor,
    ) -> Result<Self, ShimError> {
        let names = entries.iter().map(|(name, ..)| c_text(name)).collect::<Result<Vec<_>, _>>()?;
        let name_pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
        let tensors: Vec<Tensor> = entries.iter().map(|(_, tensor, _)| tensor.shallow_clone()).collect();
        let are_buffers: Vec<c_int> = entries.iter().map(|(.., is_buffer)| c_int::from(*is_buffer)).collect();
        let mut trace = std::ptr::null_mut();
        // SAFETY: all pointers are valid during the call, and lists have `n` entries.
        unsafe {
            check(talent_trace_begin(
                name_pointers.as_ptr(),
                pointers(&tensors).as_ptr(),
                are_buffers.as_ptr(),
                entries.len() as i64,
                pixels.as_ptr().cast_mut(),
                ids.as_ptr().cast_mut(),
                &mut trace,
            ))?;
        }
        Ok(Self { trace, is_recording: true })
    }

    pub(crate) fn end(&mut self, output: &Tensor) -> Result<(), ShimError> {
        self.is_recording = false;
        // SAFETY: both handles are valid.
        unsafe { check(talent_trace_end(self.trace, output.as_ptr().cast_mut())) }
    }

    pub(crate) fn save(&self, other: &Self, path: &Path, note: (&str, &str)) -> Result<(), ShimError> {
        let path =
            path.to_str().ok_or_else(|| ShimError(format!("{}: the path is not UTF-8", path.display())))?;
        let (path, name, note) = (c_text(path)?, c_text(note.0)?, c_text(note.1)?);
        // SAFETY: all pointers are valid during the call.
        unsafe {
            check(talent_trace_save(self.trace, other.trace, path.as_ptr(), name.as_ptr(), note.as_ptr()))
        }
    }
}

impl Drop for RawTrace {
    fn drop(&mut self) {
        // SAFETY: made by the shim, freed once. A recording that was not ended, because the pass panicked, ends here.
        unsafe {
            if self.is_recording {
                let _ = check(talent_trace_end(self.trace, std::ptr::null_mut()));
            }
            talent_trace_free(self.trace);
        }
    }
}
