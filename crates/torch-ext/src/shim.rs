//! Declarations of `csrc/talent_torch.h` and safe wrappers. All `unsafe` code of this crate is here.
#![allow(unsafe_code)]

pub(crate) mod graph;
pub(crate) mod hooks;
pub(crate) mod measure;
pub(crate) mod script;

use std::ffi::{CStr, c_char, c_int, c_void};

use tch::kind::Element;
use tch::{Device, Kind, Tensor};
use torch_sys::C_tensor;

/// Error message from libtorch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("libtorch: {0}")]
pub struct ShimError(pub(crate) String);

unsafe extern "C" {
    fn talent_autocast_get(cuda: c_int, enabled: *mut c_int, scalar_type: *mut c_int) -> *mut c_char;
    fn talent_autocast_set(cuda: c_int, enabled: c_int, scalar_type: c_int) -> *mut c_char;
    fn talent_autocast_clear_cache() -> *mut c_char;
    fn talent_generator_get_state(device_index: c_int, state: *mut *mut C_tensor) -> *mut c_char;
    fn talent_generator_set_state(device_index: c_int, state: *mut C_tensor) -> *mut c_char;
    #[allow(clippy::too_many_arguments)]
    fn talent_fused_adam(
        params: *const *mut C_tensor,
        grads: *const *mut C_tensor,
        exp_avgs: *const *mut C_tensor,
        exp_avg_sqs: *const *mut C_tensor,
        steps: *const *mut C_tensor,
        n: i64,
        lr: f64,
        beta1: f64,
        beta2: f64,
        eps: f64,
        weight_decay: f64,
        lr_factor: *mut C_tensor,
        found_inf: *mut C_tensor,
    ) -> *mut c_char;
    fn talent_unscale_and_check(
        grads: *const *mut C_tensor,
        n: i64,
        found_inf: *mut C_tensor,
        inv_scale: *mut C_tensor,
    ) -> *mut c_char;
    fn talent_cuda_peak_bytes(device_index: c_int, allocated: *mut i64) -> *mut c_char;
    fn talent_linear(
        x: *mut C_tensor,
        weight: *mut C_tensor,
        bias: *mut C_tensor,
        result: *mut *mut C_tensor,
    ) -> *mut c_char;
    fn talent_attention(
        queries: *mut C_tensor,
        keys: *mut C_tensor,
        values: *mut C_tensor,
        dropout: f64,
        result: *mut *mut C_tensor,
    ) -> *mut c_char;
    fn talent_dropout(xs: *mut C_tensor, probability: f64, result: *mut *mut C_tensor) -> *mut c_char;
    fn talent_custom_gradient(
        inputs: *const *mut C_tensor,
        n: i64,
        value: *mut C_tensor,
        state: *mut c_void,
        gradient: extern "C" fn(*mut c_void, *mut C_tensor, *mut *mut C_tensor, i64) -> c_int,
        release: extern "C" fn(*mut c_void),
        result: *mut *mut C_tensor,
    ) -> *mut c_char;
    fn talent_upload(host: *mut C_tensor, device_index: c_int, result: *mut *mut C_tensor) -> *mut c_char;
    fn talent_download_start(xs: *mut C_tensor, download: *mut *mut c_void) -> *mut c_char;
    fn talent_download_wait(download: *mut c_void, result: *mut *mut C_tensor) -> *mut c_char;
    fn talent_download_free(download: *mut c_void);
    fn talent_version(text: *mut *mut c_char) -> *mut c_char;
    fn talent_cpu_description(text: *mut *mut c_char) -> *mut c_char;
    fn talent_free(text: *mut c_void);
}

/// Copies a C string of the shim and frees it.
fn owned(text: *mut c_char) -> String {
    // SAFETY: the shim returns NUL-terminated strings from malloc, and each is passed here once.
    unsafe {
        let string = CStr::from_ptr(text).to_string_lossy().into_owned();
        talent_free(text.cast());
        string
    }
}

fn check(message: *mut c_char) -> Result<(), ShimError> {
    if message.is_null() { Ok(()) } else { Err(ShimError(owned(message))) }
}

fn device_index(device: Device) -> c_int {
    match device {
        Device::Cuda(index) => index as c_int,
        _ => -1,
    }
}

/// Tensor handles are `at::Tensor *`; the shim reads them and changes only what they point to.
fn pointers(tensors: &[Tensor]) -> Vec<*mut C_tensor> {
    tensors.iter().map(|tensor| tensor.as_ptr().cast_mut()).collect()
}

pub(crate) fn autocast_get(cuda: bool) -> Result<(bool, c_int), ShimError> {
    let (mut enabled, mut scalar_type) = (0, 0);
    // SAFETY: both pointers are valid for writes.
    check(unsafe { talent_autocast_get(c_int::from(cuda), &mut enabled, &mut scalar_type) })?;
    Ok((enabled != 0, scalar_type))
}

pub(crate) fn autocast_set(cuda: bool, enabled: bool, scalar_type: c_int) -> Result<(), ShimError> {
    // SAFETY: no pointers.
    check(unsafe { talent_autocast_set(c_int::from(cuda), c_int::from(enabled), scalar_type) })
}

pub(crate) fn autocast_clear_cache() -> Result<(), ShimError> {
    // SAFETY: no arguments.
    check(unsafe { talent_autocast_clear_cache() })
}

/// The number of a dtype in `c10::ScalarType`. `None` for dtypes that autocast does not support.
pub(crate) fn scalar_type(kind: Kind) -> Option<c_int> {
    match kind {
        Kind::Half => Some(5),
        Kind::BFloat16 => Some(15),
        _ => None,
    }
}

pub(crate) fn generator_state(device: Device) -> Result<Tensor, ShimError> {
    let mut state = std::ptr::null_mut();
    // SAFETY: the shim stores a new tensor, which `from_ptr` takes over.
    unsafe {
        check(talent_generator_get_state(device_index(device), &mut state))?;
        Ok(Tensor::from_ptr(state))
    }
}

pub(crate) fn set_generator_state(device: Device, state: &Tensor) -> Result<(), ShimError> {
    // SAFETY: the handle is valid during the call.
    check(unsafe { talent_generator_set_state(device_index(device), state.as_ptr().cast_mut()) })
}

pub(crate) struct AdamLists<'a> {
    pub(crate) params: &'a [Tensor],
    pub(crate) grads: &'a [Tensor],
    pub(crate) exp_avgs: &'a [Tensor],
    pub(crate) exp_avg_sqs: &'a [Tensor],
    pub(crate) steps: &'a [Tensor],
}

pub(crate) fn fused_adam(
    lists: &AdamLists<'_>,
    lr: f64,
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
    lr_factor: Option<&Tensor>,
    found_inf: Option<&Tensor>,
) -> Result<(), ShimError> {
    let n = lists.params.len();
    assert!([lists.grads, lists.exp_avgs, lists.exp_avg_sqs, lists.steps].iter().all(|list| list.len() == n));
    let handle = |tensor: Option<&Tensor>| tensor.map_or(std::ptr::null_mut(), |one| one.as_ptr().cast_mut());
    // SAFETY: five arrays of n valid handles each, and handles or null.
    check(unsafe {
        talent_fused_adam(
            pointers(lists.params).as_ptr(),
            pointers(lists.grads).as_ptr(),
            pointers(lists.exp_avgs).as_ptr(),
            pointers(lists.exp_avg_sqs).as_ptr(),
            pointers(lists.steps).as_ptr(),
            n as i64,
            lr,
            betas[0],
            betas[1],
            eps,
            weight_decay,
            handle(lr_factor),
            handle(found_inf),
        )
    })
}

pub(crate) fn unscale_and_check(
    grads: &[Tensor],
    found_inf: &Tensor,
    inv_scale: &Tensor,
) -> Result<(), ShimError> {
    // SAFETY: an array of valid handles and two valid handles.
    check(unsafe {
        talent_unscale_and_check(
            pointers(grads).as_ptr(),
            grads.len() as i64,
            found_inf.as_ptr().cast_mut(),
            inv_scale.as_ptr().cast_mut(),
        )
    })
}

pub(crate) fn cuda_peak_bytes(index: usize) -> Result<u64, ShimError> {
    let mut bytes = 0;
    // SAFETY: the pointer is valid for writes.
    check(unsafe { talent_cuda_peak_bytes(index as c_int, &mut bytes) })?;
    Ok(bytes.max(0) as u64)
}

pub(crate) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor, ShimError> {
    let handle = |tensor: &Tensor| tensor.as_ptr().cast_mut();
    let mut result = std::ptr::null_mut();
    // SAFETY: valid handles, or null for the bias; the shim stores a new tensor, which `from_ptr` takes over.
    unsafe {
        let bias = bias.map_or(std::ptr::null_mut(), handle);
        check(talent_linear(handle(x), handle(weight), bias, &mut result))?;
        Ok(Tensor::from_ptr(result))
    }
}

pub(crate) fn attention(
    queries: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    dropout: f64,
) -> Result<Tensor, ShimError> {
    let handle = |tensor: &Tensor| tensor.as_ptr().cast_mut();
    let mut result = std::ptr::null_mut();
    // SAFETY: valid handles; the shim stores a new tensor, which `from_ptr` takes over.
    unsafe {
        check(talent_attention(handle(queries), handle(keys), handle(values), dropout, &mut result))?;
        Ok(Tensor::from_ptr(result))
    }
}

pub(crate) fn dropout(xs: &Tensor, probability: f64) -> Result<Tensor, ShimError> {
    let mut result = std::ptr::null_mut();
    // SAFETY: a valid handle; the shim stores a new tensor, which `from_ptr` takes over.
    unsafe {
        check(talent_dropout(xs.as_ptr().cast_mut(), probability, &mut result))?;
        Ok(Tensor::from_ptr(result))
    }
}

/// Maps the gradient of the value to the gradients of the inputs.
pub(crate) type Gradient = Box<dyn Fn(&Tensor) -> Vec<Tensor> + Send>;

/// Called by libtorch's backward pass.
extern "C" fn call_gradient(
    state: *mut c_void,
    grad_value: *mut C_tensor,
    grad_inputs: *mut *mut C_tensor,
    n: i64,
) -> c_int {
    // SAFETY: `state` is the box leaked by `custom_gradient`, which lives until `release_gradient`; `grad_value` is a valid
    // handle that the caller still owns, so only a clone of it is owned here.
    let (gradient, grad_value) = unsafe { (&*state.cast::<Gradient>(), Tensor::clone_from_ptr(grad_value)) };
    // A panic must not cross into C++.
    let call = std::panic::AssertUnwindSafe(|| gradient(&grad_value));
    let Ok(results) = std::panic::catch_unwind(call) else { return 1 };
    if results.len() as i64 != n {
        return 1;
    }
    for (place, result) in results.into_iter().enumerate() {
        // SAFETY: `grad_inputs` has room for n handles. The caller takes ownership of the handle, so it is not dropped here.
        unsafe { *grad_inputs.add(place) = std::mem::ManuallyDrop::new(result).as_mut_ptr() };
    }
    0
}

extern "C" fn release_gradient(state: *mut c_void) {
    // SAFETY: the box leaked by `custom_gradient`, freed once.
    drop(unsafe { Box::from_raw(state.cast::<Gradient>()) });
}

pub(crate) fn custom_gradient(
    inputs: &[Tensor],
    value: &Tensor,
    gradient: Gradient,
) -> Result<Tensor, ShimError> {
    let state = Box::into_raw(Box::new(gradient)).cast();
    let mut result = std::ptr::null_mut();
    // SAFETY: arrays and handles are valid during the call; the shim takes ownership of `state`, together with the functions
    // that know its type; it stores a new tensor, which `from_ptr` takes over.
    unsafe {
        check(talent_custom_gradient(
            pointers(inputs).as_ptr(),
            inputs.len() as i64,
            value.as_ptr().cast_mut(),
            state,
            call_gradient,
            release_gradient,
            &mut result,
        ))?;
        Ok(Tensor::from_ptr(result))
    }
}

pub(crate) fn upload<T: Element>(values: &[T], shape: &[i64], device: Device) -> Result<Tensor, ShimError> {
    let n: i64 = shape.iter().product();
    assert_eq!(n, values.len() as i64, "shape {shape:?} for {} values", values.len());
    let mut result = std::ptr::null_mut();
    // SAFETY: the view has the size of the values and does not outlive them; the shim copies the values and stores a new
    // tensor, which `from_ptr` takes over.
    unsafe {
        let view = Tensor::from_blob(values.as_ptr().cast(), &[n], &[1], T::KIND, Device::Cpu).view(shape);
        check(talent_upload(view.as_ptr().cast_mut(), device_index(device), &mut result))?;
        Ok(Tensor::from_ptr(result))
    }
}

/// Owning handle of a `talent::Download`.
#[derive(Debug)]
pub(crate) struct Download(*mut c_void);

// SAFETY: it holds a tensor and an event. Any thread may use them, and without `Sync` only one thread does at a time.
unsafe impl Send for Download {}

impl Download {
    pub(crate) fn start(xs: &Tensor) -> Result<Self, ShimError> {
        let mut download = std::ptr::null_mut();
        // SAFETY: a valid handle, and a pointer that is valid for writes.
        check(unsafe { talent_download_start(xs.as_ptr().cast_mut(), &mut download) })?;
        Ok(Self(download))
    }

    pub(crate) fn wait(&self) -> Result<Tensor, ShimError> {
        let mut result = std::ptr::null_mut();
        // SAFETY: the object lives as long as this one; the shim stores a new tensor, which `from_ptr` takes over.
        unsafe {
            check(talent_download_wait(self.0, &mut result))?;
            Ok(Tensor::from_ptr(result))
        }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        // SAFETY: made by `start`, freed once.
        unsafe { talent_download_free(self.0) }
    }
}

pub(crate) fn cpu_description() -> Result<String, ShimError> {
    let mut text = std::ptr::null_mut();
    // SAFETY: the pointer is valid for writes.
    check(unsafe { talent_cpu_description(&mut text) })?;
    Ok(owned(text))
}

pub(crate) fn version() -> Result<String, ShimError> {
    let mut text = std::ptr::null_mut();
    // SAFETY: the pointer is valid for writes.
    check(unsafe { talent_version(&mut text) })?;
    Ok(owned(text))
}
