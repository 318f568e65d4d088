//! Single steps of the data path as functions.

use std::sync::{Arc, LazyLock};

use numpy::PyArrayDyn;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use refcoco::letterbox::{Letterbox, Normalisation};
use refcoco::{ClipTokenizer, Mask, Tokenizer};

use crate::arrays::{Plane, array_of, image_argument, mask_argument, mask_array, plane_argument};
use crate::errors::{data_error, detached, refused};

/// Largest side of a square or an image, in pixels. Larger ones are mistakes, and take gigabytes.
pub(crate) const MOST_PIXELS_A_SIDE: usize = 16_384;

static CLIP: LazyLock<Arc<ClipTokenizer>> = LazyLock::new(|| match ClipTokenizer::new() {
    Ok(tokenizer) => Arc::new(tokenizer),
    Err(error) => unreachable!("the bundled merges: {error}"),
});

/// CLIP's tokenizer. Made by whoever holds the global interpreter lock, so that no fork finds it half made.
pub(crate) fn clip(_holds_the_lock: Python<'_>) -> Arc<dyn Tokenizer> {
    Arc::<ClipTokenizer>::clone(&CLIP)
}

fn check_side(name: &str, side: usize) -> PyResult<()> {
    match side {
        1..=MOST_PIXELS_A_SIDE => Ok(()),
        _ => Err(PyValueError::new_err(format!("{name} must be 1 to {MOST_PIXELS_A_SIDE}, not {side}"))),
    }
}

/// Mean, standard deviation and border colour, each for R, G, B.
pub(crate) type GivenNormalisation = ([f32; 3], [f32; 3], [u8; 3]);

/// The normalisation that was asked for, which must give finite pixels, or CLIP's.
pub(crate) fn normalisation_of(given: Option<GivenNormalisation>) -> PyResult<Normalisation> {
    let Some((mean, std, border)) = given else { return Ok(Normalisation::CLIP) };
    let is_usable = mean.iter().all(|value| value.is_finite())
        && std.iter().all(|value| value.is_finite() && *value > 0.0);
    match is_usable {
        true => Ok(Normalisation { mean, std, border }),
        false => Err(PyValueError::new_err("normalisation: mean must be finite, and std finite and above 0")),
    }
}

/// The image in the network's square: float32 [3, size, size], bicubic, aspect ratio kept, normalised as
/// (value / 255 - mean) / std.
///
/// rgb: uint8 [height, width, 3]. normalisation: (mean, std, border colour 0 to 255), each for R, G, B; CLIP's by default.
#[pyfunction]
#[pyo3(signature = (rgb, size, normalisation = None))]
fn letterbox<'py>(
    py: Python<'py>,
    rgb: &Bound<'py, PyAny>,
    size: usize,
    normalisation: Option<GivenNormalisation>,
) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
    check_side("size", size)?;
    let image = image_argument("rgb", rgb)?;
    let pixels = normalisation_of(normalisation)?;
    let out =
        detached(py, || Letterbox::new(image.width, image.height, size).normalised_image(&image, &pixels))?;
    array_of(py, out, &[3, size, size])
}

/// A mask in the network's square: float32 [size, size], 0 to 1, bilinear.
///
/// mask: bool or whole numbers [height, width]; what is not zero is foreground.
#[pyfunction]
fn letterbox_mask<'py>(
    py: Python<'py>,
    mask: &Bound<'py, PyAny>,
    size: usize,
) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
    check_side("size", size)?;
    let mask = mask_argument("mask", mask)?;
    let out = detached(py, || {
        let mut out = vec![0.0; size * size];
        Letterbox::new(mask.width, mask.height, size).unit_mask_into(&mask, &mut out);
        out
    })?;
    array_of(py, out, &[size, size])
}

/// Probabilities over the network's square, float32 [S, S], in the pixels of the image: float32 [height, width], bicubic.
///
/// size: height and width of the image.
#[pyfunction]
fn map_to_image<'py>(
    py: Python<'py>,
    probabilities: &Bound<'py, PyAny>,
    size: [usize; 2],
) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
    let [height, width] = size;
    check_side("height", height)?;
    check_side("width", width)?;
    let (side, values) = match plane_argument("probabilities", probabilities)? {
        Plane::Map { height, width, values } if height == width => (height, values),
        Plane::Map { height, width, .. } => {
            return Err(PyValueError::new_err(format!(
                "probabilities must be square, not [{height}, {width}]"
            )));
        }
        Plane::Mask(_) => return Err(PyValueError::new_err("probabilities must be floats, not a mask")),
    };
    check_side("the side of probabilities", side)?;
    let out = detached(py, || Letterbox::new(width, height, side).map_to_image(&values))?;
    array_of(py, out, &[height, width])
}

/// CLIP's token ids of a text, int64 [word_len], or of a list of texts, int64 [n, word_len]: start and end token, padded with 0, cut to
/// word_len with the end token last.
#[pyfunction]
#[pyo3(signature = (text, word_len = 17))]
fn tokenize<'py>(text: &Bound<'py, PyAny>, word_len: usize) -> PyResult<Bound<'py, PyArrayDyn<i64>>> {
    if word_len > 4096 {
        return Err(PyValueError::new_err(format!("word_len must be 2 to 4096, not {word_len}")));
    }
    let tokenizer = clip(text.py());
    let ids = |text: &str| tokenizer.encode_padded(text, word_len).map_err(data_error);
    if let Ok(one) = text.cast::<PyString>() {
        return array_of(text.py(), ids(one.to_str()?)?, &[word_len]);
    }
    let texts: Vec<String> = text.extract()?;
    let mut all = Vec::with_capacity(texts.len() * word_len);
    for text in &texts {
        all.extend(ids(text)?);
    }
    array_of(text.py(), all, &[texts.len(), word_len])
}

/// A COCO segmentation as bool [height, width]: run lengths ({"size": [height, width], "counts": ...}, counts a list, str or bytes), or
/// a list of polygons, which needs size=(height, width).
#[pyfunction]
#[pyo3(signature = (segmentation, size = None))]
fn decode_mask<'py>(
    py: Python<'py>,
    segmentation: &Bound<'py, PyAny>,
    size: Option<[usize; 2]>,
) -> PyResult<Bound<'py, PyAny>> {
    let text: String =
        py.import("talent_ris._types")?.getattr("json_of")?.call1((segmentation,))?.extract()?;
    let of_itself = || segmentation.get_item("size").ok()?.extract::<[usize; 2]>().ok();
    let Some([height, width]) = size.or_else(of_itself) else {
        return Err(PyValueError::new_err(
            "size=(height, width) is needed: the segmentation does not say it",
        ));
    };
    check_side("height", height)?;
    check_side("width", width)?;
    let mask = detached(py, || Mask::from_json(width, height, &text))?.map_err(refused)?;
    mask_array(py, mask.data, &[height, width])
}

/// A mask as COCO's compressed run lengths: {"size": [height, width], "counts": str}.
///
/// mask: bool or whole numbers [height, width]; what is not zero is foreground.
#[pyfunction]
fn encode_mask<'py>(py: Python<'py>, mask: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyDict>> {
    let mask = mask_argument("mask", mask)?;
    let counts = detached(py, || mask.to_rle_string())?;
    let coded = PyDict::new(py);
    coded.set_item("size", vec![mask.height, mask.width])?;
    coded.set_item("counts", counts)?;
    Ok(coded)
}

pub(crate) fn add_to(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(letterbox, module)?)?;
    module.add_function(wrap_pyfunction!(letterbox_mask, module)?)?;
    module.add_function(wrap_pyfunction!(map_to_image, module)?)?;
    module.add_function(wrap_pyfunction!(tokenize, module)?)?;
    module.add_function(wrap_pyfunction!(decode_mask, module)?)?;
    module.add_function(wrap_pyfunction!(encode_mask, module)?)
}
