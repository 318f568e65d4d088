//! Bindings for profiling, device events, synchronisation counts and smaller settings and operations.

use std::ffi::{CStr, c_char, c_int, c_void};

use tch::{Device, Kind, Tensor};

use super::{ShimError, check, device_index, pointers, scalar_type};
use crate::profile::{Event, EventKind};

type TraceEvent = extern "C" fn(*mut c_void, *const c_char, c_int, u64, u64, u64);

unsafe extern "C" {
    fn talent_cuda_reset_peak(device_index: c_int) -> *mut c_char;
    fn talent_allow_tf32(allowed: c_int) -> *mut c_char;
    fn talent_cpu_kernels(enabled: c_int);
    fn talent_poison_memory(poison: c_int) -> *mut c_char;
    fn talent_upload_beside(beside: c_int);
    fn talent_layer_norm(
        xs: *mut torch_sys::C_tensor,
        weight: *mut torch_sys::C_tensor,
        bias: *mut torch_sys::C_tensor,
        eps: f64,
        result: *mut *mut torch_sys::C_tensor,
    ) -> *mut c_char;
    fn talent_scaled_sum(
        xs: *mut torch_sys::C_tensor,
        update: *mut torch_sys::C_tensor,
        scale: *mut torch_sys::C_tensor,
        in_dtype: c_int,
        result: *mut *mut torch_sys::C_tensor,
    ) -> *mut c_char;
    fn talent_lower_weights(scalar_type: c_int) -> *mut c_char;
    fn talent_forget_lowered();
    fn talent_lowered(weight: *mut torch_sys::C_tensor, result: *mut *mut torch_sys::C_tensor)
    -> *mut c_char;
    fn talent_tf32_products(allowed: c_int, before: *mut c_int) -> *mut c_char;
    fn talent_write_count(xs: *mut torch_sys::C_tensor) -> u64;
    fn talent_clear_gradients(params: *const *mut torch_sys::C_tensor, n: i64) -> *mut c_char;
    fn talent_profile_start(cuda: c_int) -> *mut c_char;
    fn talent_profile_stop(state: *mut c_void, event: TraceEvent) -> *mut c_char;
    fn talent_count_synchronisations() -> *mut c_char;
    fn talent_synchronisations(n: *mut i64) -> *mut c_char;
    fn talent_mark(device_index: c_int, mark: *mut *mut c_void) -> *mut c_char;
    fn talent_mark_elapsed(first: *mut c_void, second: *mut c_void, milliseconds: *mut f64) -> *mut c_char;
    fn talent_mark_free(mark: *mut c_void);
}

pub(crate) fn cuda_reset_peak(index: usize) -> Result<(), ShimError> {
    // SAFETY: no pointers.
    check(unsafe { talent_cuda_reset_peak(index as c_int) })
}

pub(crate) fn allow_tf32(allowed: bool) -> Result<(), ShimError> {
    // SAFETY: no pointers.
    check(unsafe { talent_allow_tf32(c_int::from(allowed)) })
}

pub(crate) fn poison_memory(poison: bool) -> Result<(), ShimError> {
    // SAFETY: no pointers.
    check(unsafe { talent_poison_memory(c_int::from(poison)) })
}

pub(crate) fn cpu_kernels(enabled: bool) {
    // SAFETY: no pointers.
    unsafe { talent_cpu_kernels(c_int::from(enabled)) }
}

pub(crate) fn tf32_products(allowed: bool) -> Result<bool, ShimError> {
    let mut before = 0;
    // SAFETY: the pointer is valid for writes.
    check(unsafe { talent_tf32_products(c_int::from(allowed), &mut before) })?;
    Ok(before != 0)
}

pub(crate) fn scaled_sum(
    xs: &Tensor,
    update: &Tensor,
    scale: &Tensor,
    in_dtype: bool,
) -> Result<Tensor, ShimError> {
    let handle = |tensor: &Tensor| tensor.as_ptr().cast_mut();
    let mut result = std::ptr::null_mut();
    // SAFETY: valid handles; the shim stores a new tensor, which `from_ptr` takes over.
    unsafe {
        let in_dtype = c_int::from(in_dtype);
        check(talent_scaled_sum(handle(xs), handle(update), handle(scale), in_dtype, &mut result))?;
        Ok(Tensor::from_ptr(result))
    }
}

/// Layer normalisation in the dtype of `xs`, ignoring autocast.
pub(crate) fn layer_norm(xs: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor, ShimError> {
    let handle = |tensor: &Tensor| tensor.as_ptr().cast_mut();
    let mut result = std::ptr::null_mut();
    // SAFETY: valid handles; the shim stores a new tensor, which `from_ptr` takes over.
    unsafe {
        check(talent_layer_norm(handle(xs), handle(weight), handle(bias), eps, &mut result))?;
        Ok(Tensor::from_ptr(result))
    }
}

pub(crate) fn upload_beside(beside: bool) {
    // SAFETY: no pointers.
    unsafe { talent_upload_beside(c_int::from(beside)) }
}

pub(crate) fn lower_weights(kind: Kind) -> Result<(), ShimError> {
    /// `c10::ScalarType::Float`.
    const FLOAT: c_int = 6;
    // SAFETY: no pointers.
    check(unsafe { talent_lower_weights(scalar_type(kind).unwrap_or(FLOAT)) })
}

pub(crate) fn forget_lowered() {
    // SAFETY: no arguments.
    unsafe { talent_forget_lowered() }
}

pub(crate) fn lowered(weight: &Tensor) -> Tensor {
    let mut result = std::ptr::null_mut();
    // SAFETY: a valid handle; the shim stores a new one, which `from_ptr` takes over. It fails only when out of memory.
    unsafe {
        match check(talent_lowered(weight.as_ptr().cast_mut(), &mut result)) {
            Ok(()) => Tensor::from_ptr(result),
            Err(_) => weight.shallow_clone(),
        }
    }
}

pub(crate) fn write_count(xs: &Tensor) -> u64 {
    // SAFETY: a valid handle.
    unsafe { talent_write_count(xs.as_ptr().cast_mut()) }
}

pub(crate) fn clear_gradients(params: &[Tensor]) -> Result<(), ShimError> {
    // SAFETY: an array of valid handles.
    check(unsafe { talent_clear_gradients(pointers(params).as_ptr(), params.len() as i64) })
}

pub(crate) fn profile_start(cuda: bool) -> Result<(), ShimError> {
    // SAFETY: no pointers.
    check(unsafe { talent_profile_start(c_int::from(cuda)) })
}

extern "C" fn take_event(
    events: *mut c_void,
    name: *const c_char,
    kind: c_int,
    start: u64,
    end: u64,
    thread: u64,
) {
    // SAFETY: `events` is the vector that `profile_stop` passes and outlives; `name` is a C string that outlives this call.
    let (events, name) = unsafe { (&mut *events.cast::<Vec<Event>>(), CStr::from_ptr(name)) };
    let kind = match kind {
        0 => EventKind::Operator,
        1 => EventKind::View,
        2 => EventKind::Runtime,
        3 => EventKind::Kernel,
        4 => EventKind::Copy,
        _ => EventKind::Other,
    };
    events.push(Event { name: name.to_string_lossy().into_owned(), kind, start, end, thread });
}

pub(crate) fn profile_stop() -> Result<Vec<Event>, ShimError> {
    let mut events: Vec<Event> = Vec::new();
    // SAFETY: the pointer is to the vector that `take_event` expects, and is used only during the call.
    check(unsafe { talent_profile_stop((&raw mut events).cast(), take_event) })?;
    Ok(events)
}

pub(crate) fn count_synchronisations() -> Result<(), ShimError> {
    // SAFETY: no arguments.
    check(unsafe { talent_count_synchronisations() })
}

pub(crate) fn synchronisations() -> Result<u64, ShimError> {
    let mut n = 0;
    // SAFETY: the pointer is valid for writes.
    check(unsafe { talent_synchronisations(&mut n) })?;
    Ok(n.max(0) as u64)
}

/// Owning handle of a `c10::Event` that records its time.
#[derive(Debug)]
pub(crate) struct Mark(*mut c_void);

// SAFETY: any thread may use an event, and without `Sync` only one thread does at a time.
unsafe impl Send for Mark {}

impl Mark {
    pub(crate) fn set(device: Device) -> Result<Self, ShimError> {
        let mut mark = std::ptr::null_mut();
        // SAFETY: the pointer is valid for writes.
        check(unsafe { talent_mark(device_index(device), &mut mark) })?;
        Ok(Self(mark))
    }

    pub(crate) fn milliseconds_to(&self, later: &Self) -> Result<f64, ShimError> {
        let mut milliseconds = 0.0;
        // SAFETY: both were made by `set` and live.
        check(unsafe { talent_mark_elapsed(self.0, later.0, &mut milliseconds) })?;
        Ok(milliseconds)
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        // SAFETY: made by `set`, freed once.
        unsafe { talent_mark_free(self.0) }
    }
}
