//! Binary masks from COCO segmentations: polygons, RLE as a list of counts, RLE as a compressed string.

mod geometry;
mod polygon;
mod rle;
mod segmentation;
mod shapes;

use serde_json::Value;

pub use self::geometry::PixelBox;
use self::segmentation::{Part, parts_of, refuse_pixels, refuse_shares, rle_mask};
pub(crate) use self::shapes::paint;
use crate::error::MaskError;
use crate::memory_rule::{afford_pixels, afford_text};
use crate::reader::in_one_line;

/// A binary mask in the original image's pixels, row-major, one byte per pixel (0 or 1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// `height * width` bytes, 0 or 1.
    pub data: Vec<u8>,
}

impl Mask {
    /// An empty mask.
    pub fn zeros(width: usize, height: usize) -> Self {
        Self { width, height, data: vec![0; width * height] }
    }

    /// Removes the pixels of another mask of the same size.
    pub fn subtract(&mut self, other: &Self) {
        for (pixel, &removed) in self.data.iter_mut().zip(&other.data) {
            *pixel &= 1 - removed;
        }
    }

    /// Mask of the pixels whose probability is above a threshold.
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

    /// Adds another mask's foreground to this one.
    ///
    /// # Panics
    /// When the sizes differ.
    pub fn unite(&mut self, other: &Self) {
        assert_eq!((self.width, self.height), (other.width, other.height), "masks of one image");
        for (pixel, &more) in self.data.iter_mut().zip(&other.data) {
            *pixel |= more;
        }
    }

    /// Decodes uncompressed COCO RLE: column-major runs that alternate background and foreground.
    ///
    /// # Errors
    /// When the runs do not add up to `height * width`.
    pub fn from_counts(width: usize, height: usize, counts: &[u64]) -> Result<Self, MaskError> {
        rle::from_counts(width, height, counts)
    }

    /// Decodes COCO's compressed RLE string.
    ///
    /// # Errors
    /// When the string is damaged or its runs do not add up to `height * width`.
    pub fn from_rle_string(width: usize, height: usize, text: &str) -> Result<Self, MaskError> {
        rle::from_counts(width, height, &rle::parse_string(text)?)
    }

    /// Encodes as uncompressed RLE: column-major runs, background first.
    pub fn to_counts(&self) -> Vec<u64> {
        rle::to_counts(self)
    }

    /// Encodes as COCO's compressed RLE string.
    ///
    /// ```
    /// let mask = refcoco::Mask::from_counts(4, 2, &[2, 3, 3]).unwrap();
    /// assert_eq!(mask.to_rle_string(), "233");
    /// assert_eq!(refcoco::Mask::from_rle_string(4, 2, "233").unwrap(), mask);
    /// ```
    pub fn to_rle_string(&self) -> String {
        rle::write_string(&self.to_counts())
    }

    /// Rasterises the union of polygons as the COCO tools do (five-fold supersampled boundary, even-odd within one polygon).
    /// Each polygon is a flat `x, y, x, y, ...` list in pixels.
    ///
    /// # Errors
    /// When there is no polygon, when none has three points (others beside one that has add nothing), or when one has an odd
    /// number of coordinates or one that is not finite.
    pub fn from_polygons(width: usize, height: usize, polygons: &[Vec<f64>]) -> Result<Self, MaskError> {
        polygon::rasterise(width, height, polygons)
    }

    /// Decodes the parts of a COCO `segmentation` value, one mask each: polygons or RLE masks. Parts may overlap; their union
    /// is [`Mask::from_segmentation`].
    ///
    /// # Errors
    /// See [`MaskError`].
    pub fn parts_of_segmentation(width: usize, height: usize, value: &Value) -> Result<Vec<Self>, MaskError> {
        let whole = Self::from_segmentation(width, height, value)?;
        if shapes_of(value).is_some() {
            return Ok(vec![whole]);
        }
        let parts = parts_of(value)?;
        if parts.len() < 2 {
            return Ok(vec![whole]);
        }
        afford_pixels(width as u64, height as u64, parts.len() as u64)
            .map_err(|what| MaskError::Memory(format!("{} parts: {what}", parts.len())))?;
        let part = |part: Part<'_>| match part {
            // Fewer than three points enclose nothing.
            Part::Polygon(polygon) if polygon.len() < 6 => Ok(Self::zeros(width, height)),
            Part::Polygon(polygon) => Self::from_polygons(width, height, &[polygon]),
            Part::Rle(fields) => rle_mask(width, height, fields),
        };
        parts.into_iter().map(part).collect()
    }

    /// Decodes any COCO `segmentation`, as JSON text, for an image of this size.
    ///
    /// # Errors
    /// See [`MaskError`].
    pub fn from_json(width: usize, height: usize, text: &str) -> Result<Self, MaskError> {
        Self::from_segmentation(width, height, &segmentation_value(text)?)
    }

    /// Decodes any COCO `segmentation` value for an image of this size, or the target of `{"shapes": [...]}`, polygons with
    /// labels as ReasonSeg has them.
    ///
    /// # Errors
    /// See [`MaskError`].
    pub fn from_segmentation(width: usize, height: usize, value: &Value) -> Result<Self, MaskError> {
        afford_pixels(width as u64, height as u64, 1).map_err(MaskError::Memory)?;
        if let Some(shapes) = shapes_of(value) {
            return Ok(paint(width, height, shapes)?.target);
        }
        refuse_pixels(value, width, height)?;
        let (mut polygons, mut union) = (Vec::new(), None::<Self>);
        let parts = parts_of(value)?;
        for part in parts {
            match part {
                Part::Polygon(polygon) => polygons.push(polygon),
                Part::Rle(fields) => {
                    let mask = rle_mask(width, height, fields)?;
                    match &mut union {
                        Some(union) => union.unite(&mask),
                        None => union = Some(mask),
                    }
                }
            }
        }
        refuse_shares(&polygons, width, height)?;
        match union {
            Some(mask) if polygons.is_empty() => Ok(mask),
            Some(mut union) => {
                union.unite(&Self::from_polygons(width, height, &polygons)?);
                Ok(union)
            }
            None => Self::from_polygons(width, height, &polygons),
        }
    }
}

/// The labelled polygons of `{"shapes": [...]}`.
pub(crate) fn shapes_of(value: &Value) -> Option<&[Value]> {
    value.get("shapes")?.as_array().map(Vec::as_slice)
}

/// Parses a segmentation's JSON text within the memory limit.
pub(crate) fn segmentation_value(text: &str) -> Result<Value, MaskError> {
    afford_text(text.len()).map_err(MaskError::Memory)?;
    serde_json::from_str(text).map_err(|error| MaskError::Json(in_one_line(&error)))
}

/// The polygons among the parts of a segmentation's JSON text.
pub(crate) fn polygons_of(text: &str) -> Result<Vec<Vec<f64>>, MaskError> {
    let value = segmentation_value(text)?;
    let polygon = |part| match part {
        Part::Polygon(polygon) => Some(polygon),
        Part::Rle(_) => None,
    };
    Ok(parts_of(&value)?.into_iter().filter_map(polygon).collect())
}
