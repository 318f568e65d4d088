//! Binary masks from COCO segmentations: polygons, run lengths as a list, run lengths as a string.

mod polygon;
mod rle;

use serde_json::Value;

use crate::error::MaskError;
use crate::memory_rule::{afford_pixels, afford_text};

/// A binary mask in the original image's pixels, row-major, one byte a pixel (0 or 1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
    /// `height * width` bytes, 0 or 1.
    pub data: Vec<u8>,
}

impl Mask {
    /// An empty mask.
    pub fn zeros(width: usize, height: usize) -> Self {
        Self { width, height, data: vec![0; width * height] }
    }

    /// The pixels whose probability lies above a threshold.
    ///
    /// - probabilities: `width * height` values, row-major
    pub fn above(width: usize, height: usize, probabilities: &[f32], threshold: f32) -> Self {
        let data = probabilities.iter().map(|&value| u8::from(value > threshold)).collect();
        Self { width, height, data }
    }

    /// Number of foreground pixels.
    pub fn area(&self) -> usize {
        self.data.iter().map(|&pixel| usize::from(pixel)).sum()
    }

    /// Adds another mask's foreground.
    ///
    /// # Panics
    /// When the sizes differ.
    pub fn unite(&mut self, other: &Self) {
        assert_eq!((self.width, self.height), (other.width, other.height), "masks of one image");
        for (pixel, &more) in self.data.iter_mut().zip(&other.data) {
            *pixel |= more;
        }
    }

    /// A mask from column-major runs that alternate background and foreground, as COCO stores them.
    ///
    /// # Errors
    /// When the runs do not add up to `height * width`.
    pub fn from_counts(width: usize, height: usize, counts: &[u64]) -> Result<Self, MaskError> {
        rle::from_counts(width, height, counts)
    }

    /// A mask from COCO's compressed run-length string.
    ///
    /// # Errors
    /// When the string is damaged or its runs do not add up to `height * width`.
    pub fn from_rle_string(width: usize, height: usize, text: &str) -> Result<Self, MaskError> {
        rle::from_counts(width, height, &rle::parse_string(text)?)
    }

    /// Column-major runs, background first.
    pub fn to_counts(&self) -> Vec<u64> {
        rle::to_counts(self)
    }

    /// COCO's compressed run-length string.
    pub fn to_rle_string(&self) -> String {
        rle::write_string(&self.to_counts())
    }

    /// The union of polygons, each a flat `x, y, x, y, ...` list in pixels, rasterised as the COCO tools do
    /// (five-fold supersampled boundary, even-odd within one polygon).
    ///
    /// # Errors
    /// When there is no polygon, or one has fewer than three points (a later part may have two and then adds
    /// nothing), an odd number of coordinates or one that is not finite.
    pub fn from_polygons(width: usize, height: usize, polygons: &[Vec<f64>]) -> Result<Self, MaskError> {
        polygon::rasterise(width, height, polygons)
    }

    /// The parts of a COCO `segmentation` value, one mask each: a polygon list's polygons, or the one run-length mask.
    /// Parts may overlap; their union is [`Mask::from_segmentation`].
    ///
    /// # Errors
    /// See [`MaskError`].
    pub fn parts_of_segmentation(width: usize, height: usize, value: &Value) -> Result<Vec<Self>, MaskError> {
        let whole = Self::from_segmentation(width, height, value)?;
        let Value::Array(parts) = value else { return Ok(vec![whole]) };
        afford_pixels(width as u64, height as u64, parts.len() as u64)
            .map_err(|what| MaskError::Memory(format!("{} polygons: {what}", parts.len())))?;
        let part = |(index, part): (usize, &Value)| {
            let polygon = polygon_coordinates(part)?;
            // Two points enclose nothing; the COCO tools let them pass behind the first part.
            if index > 0 && polygon.len() == 4 {
                return Ok(Self::zeros(width, height));
            }
            Self::from_polygons(width, height, &[polygon])
        };
        parts.iter().enumerate().map(part).collect()
    }

    /// Any COCO `segmentation` as JSON text for an image of this size.
    ///
    /// # Errors
    /// See [`MaskError`].
    pub fn from_json(width: usize, height: usize, text: &str) -> Result<Self, MaskError> {
        Self::from_segmentation(width, height, &segmentation_value(text)?)
    }

    /// Any COCO `segmentation` value for an image of this size.
    ///
    /// # Errors
    /// See [`MaskError`].
    pub fn from_segmentation(width: usize, height: usize, value: &Value) -> Result<Self, MaskError> {
        afford_pixels(width as u64, height as u64, 1).map_err(MaskError::Memory)?;
        match value {
            Value::Array(parts) => {
                let polygons = parts.iter().map(polygon_coordinates).collect::<Result<Vec<_>, _>>()?;
                Self::from_polygons(width, height, &polygons)
            }
            Value::Object(fields) => {
                let size = fields.get("size").and_then(Value::as_array).map(Vec::as_slice);
                let Some([Value::Number(h), Value::Number(w)]) = size else {
                    return Err(MaskError::Rle("`size` must be [height, width]".into()));
                };
                let (Some(h), Some(w)) = (h.as_u64(), w.as_u64()) else {
                    return Err(MaskError::Rle("`size` must hold two non-negative integers".into()));
                };
                if (h, w) != (height as u64, width as u64) {
                    let found = (h as usize, w as usize);
                    return Err(MaskError::Size { found, expected: (height, width) });
                }
                match fields.get("counts") {
                    Some(Value::String(text)) => Self::from_rle_string(width, height, text),
                    Some(Value::Array(counts)) => {
                        let counts = counts.iter().map(|count| {
                            count.as_u64().ok_or_else(|| MaskError::Rle(format!("{count} is no run length")))
                        });
                        Self::from_counts(width, height, &counts.collect::<Result<Vec<_>, _>>()?)
                    }
                    _ => Err(MaskError::Rle("`counts` must be a list or a string".into())),
                }
            }
            Value::Null => Err(MaskError::Kind("null".into())),
            other => Err(MaskError::Kind(other.to_string())),
        }
    }
}

/// The JSON value of a segmentation's text.
pub(crate) fn segmentation_value(text: &str) -> Result<Value, MaskError> {
    afford_text(text.len()).map_err(MaskError::Memory)?;
    serde_json::from_str(text).map_err(|error| MaskError::Kind(error.to_string()))
}

fn polygon_coordinates(part: &Value) -> Result<Vec<f64>, MaskError> {
    let Value::Array(numbers) = part else {
        return Err(MaskError::Polygon(format!("{part} is no list of coordinates")));
    };
    let number =
        |value: &Value| value.as_f64().ok_or_else(|| MaskError::Polygon(format!("{value} is no coordinate")));
    numbers.iter().map(number).collect()
}
