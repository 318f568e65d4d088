//! Conversions between NumPy arrays and plain buffers.

use numpy::ndarray::{ArrayView, IxDyn};
use numpy::{
    Element, PyArray, PyArray1, PyArrayDyn, PyArrayMethods, PyReadonlyArrayDyn, PyUntypedArrayMethods,
};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use refcoco::{Mask, Pixels};

/// What an array is, for messages: `float64 [2, 3]`.
fn described(array: &Bound<'_, PyAny>) -> String {
    let field = |name: &str| array.getattr(name).and_then(|value| Ok(value.str()?.to_string()));
    match (field("dtype"), field("shape")) {
        (Ok(dtype), Ok(shape)) => {
            format!("{dtype} {}", shape.replace(",)", ")").replace('(', "[").replace(')', "]"))
        }
        _ => "something else".to_owned(),
    }
}

/// The argument as a contiguous array; copied only if it is none.
fn contiguous<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    value.py().import("numpy")?.call_method1("ascontiguousarray", (value,))
}

fn kind_of(array: &Bound<'_, PyAny>) -> PyResult<char> {
    array.getattr("dtype")?.getattr("kind")?.extract()
}

/// An image: uint8 `[height, width, 3]`.
pub(crate) fn image_argument(name: &str, value: &Bound<'_, PyAny>) -> PyResult<refcoco::RgbImage> {
    let array = contiguous(value)?;
    let wrong = || {
        let found = described(&array);
        PyTypeError::new_err(format!("{name} must be a uint8 array [height, width, 3], not {found}"))
    };
    let pixels: PyReadonlyArrayDyn<'_, u8> = array.extract().map_err(|_| wrong())?;
    match *pixels.shape() {
        [height, width, 3] if height > 0 && width > 0 => {
            Ok(refcoco::RgbImage { width, height, data: pixels.as_slice()?.to_vec() })
        }
        _ => Err(wrong()),
    }
}

/// A mask: bool or whole numbers, `[height, width]`; what is not zero is foreground.
pub(crate) fn mask_argument(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Mask> {
    match plane_argument(name, value)? {
        Plane::Mask(mask) => Ok(mask),
        Plane::Map { .. } => {
            Err(PyTypeError::new_err(format!("{name} must be a mask (bool or uint8), not floats")))
        }
    }
}

/// A plane of values.
pub(crate) enum Plane {
    Mask(Mask),
    /// Row-major.
    Map {
        height: usize,
        width: usize,
        values: Vec<f32>,
    },
}

/// A mask (bool or whole numbers) or a map of probabilities (floats), `[height, width]`.
pub(crate) fn plane_argument(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Plane> {
    let array = contiguous(value)?;
    let shape: Vec<usize> = array.getattr("shape")?.extract()?;
    let [height, width] = shape[..] else {
        let found = described(&array);
        return Err(PyValueError::new_err(format!("{name} must be an array [height, width], not {found}")));
    };
    if height == 0 || width == 0 {
        return Err(PyValueError::new_err(format!("{name} has no pixels")));
    }
    match kind_of(&array)? {
        'b' | 'u' | 'i' => {
            let set = array.call_method1("__ne__", (0,))?;
            let set: PyReadonlyArrayDyn<'_, bool> = set.extract()?;
            let data = set.as_slice()?.iter().map(|&set| u8::from(set)).collect();
            Ok(Plane::Mask(Mask { width, height, data }))
        }
        'f' => {
            let floats = array.call_method1("astype", ("float32",))?;
            let floats: PyReadonlyArrayDyn<'_, f32> = floats.extract()?;
            let values = floats.as_slice()?.to_vec();
            if let Some(value) = values.iter().find(|value| !value.is_finite()) {
                return Err(PyValueError::new_err(format!("{name} holds {value}")));
            }
            Ok(Plane::Map { height, width, values })
        }
        _ => {
            let found = described(&array);
            Err(PyTypeError::new_err(format!("{name} must hold bool, uint8 or floats, not {found}")))
        }
    }
}

/// An array that owns the values; they are not copied.
pub(crate) fn array_of<'py, T: Element>(
    py: Python<'py>,
    values: Vec<T>,
    shape: &[usize],
) -> PyResult<Bound<'py, PyArrayDyn<T>>> {
    PyArray1::from_vec(py, values).reshape(IxDyn(shape))
}

/// A bool array of masks, `[height, width]` or `[n, height, width]`.
pub(crate) fn mask_array<'py>(
    py: Python<'py>,
    data: Vec<u8>,
    shape: &[usize],
) -> PyResult<Bound<'py, PyAny>> {
    // Every byte is 0 or 1, as NumPy's bool is.
    array_of(py, data, shape)?.call_method1("view", ("bool",))
}

/// Keeps the memory of an array's values, which returns to its pool when the array is gone.
#[pyclass(frozen, module = "talent_ris._native")]
struct Memory(Pixels);

/// An array over pixels of a batch, without a copy.
#[allow(unsafe_code)]
pub(crate) fn pixel_array<'py>(
    py: Python<'py>,
    pixels: Pixels,
    shape: &[usize],
) -> PyResult<Bound<'py, PyAny>> {
    let memory = Bound::new(py, Memory(pixels))?;
    let values: &[f32] = &memory.get().0;
    let view = ArrayView::from_shape(IxDyn(shape), values)
        .map_err(|error| PyValueError::new_err(error.to_string()))?;
    // SAFETY: the array keeps `memory` alive, which nobody else can reach and whose values stay where they are.
    let array = unsafe { PyArray::borrow_from_array(&view, memory.clone().into_any()) };
    Ok(array.into_any())
}
