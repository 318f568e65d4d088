//! Pictures: uploads, decoded within limits; thumbnails; and encodings for the browser.

use std::io::Cursor;

use anyhow::{Context, Result, ensure};
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::imageops::{FilterType, resize};
use image::{ExtendedColorType, ImageEncoder};
use refcoco::RgbImage;
use sha2::{Digest, Sha256};

/// Pixels of the largest picture that is decoded.
const MAX_PIXELS: usize = 40_000_000;

/// A decoded picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// SHA-256 of the file in hexadecimal digits. Pictures with equal ids are equal.
    pub id: String,
    /// The pixels, turned as the file's EXIF orientation says.
    pub pixels: RgbImage,
    /// Whether the file is a JPEG that lacks its end; the missing pixels are filled in.
    pub is_cut_short: bool,
}

impl Picture {
    /// Decodes a file.
    ///
    /// # Errors
    /// When it is no picture of a known format, is damaged, or has too many pixels.
    pub(crate) fn decode(file: &[u8]) -> Result<Self> {
        let (width, height) =
            refcoco::encoded_size(file).map_err(anyhow::Error::msg).with_context(|| file_kind_of(file))?;
        ensure!(
            width.saturating_mul(height) <= MAX_PIXELS,
            "the picture has {width} x {height} pixels; at most {} megapixels are read",
            MAX_PIXELS / 1_000_000
        );
        let pixels = refcoco::decode_image(file).map_err(anyhow::Error::msg)?;
        let id = Sha256::digest(file).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { id, pixels, is_cut_short: refcoco::is_cut_short(file) })
    }
}

/// What an unreadable file is, as far as can be seen.
fn file_kind_of(file: &[u8]) -> &'static str {
    match file {
        [] => "the picture is empty",
        _ => "the picture cannot be read (JPEG, PNG, TIFF and WebP are)",
    }
}

/// A JPEG for the browser, scaled down so that neither side is longer than `side`.
pub(crate) fn thumbnail(image: RgbImage, side: usize) -> Result<Vec<u8>> {
    let RgbImage { width, height, data } = image;
    let whole =
        image::RgbImage::from_raw(width as u32, height as u32, data).context("size of the picture")?;
    let shown = match scaled_size(width, height, side) {
        None => whole,
        Some((width, height)) => resize(&whole, width, height, FilterType::Triangle),
    };
    let mut out = Vec::new();
    JpegEncoder::new_with_quality(&mut out, 88).encode_image(&shown)?;
    Ok(out)
}

/// A PNG with one channel.
///
/// - values: `width * height` of them, row-major
pub(crate) fn grey_png(values: &[u8], width: usize, height: usize) -> Result<Vec<u8>> {
    let mut out = Cursor::new(Vec::new());
    PngEncoder::new(&mut out).write_image(values, width as u32, height as u32, ExtendedColorType::L8)?;
    Ok(out.into_inner())
}

/// [`grey_png`], scaled down so that neither side is longer than `side`.
pub(crate) fn scaled_grey_png(values: Vec<u8>, width: usize, height: usize, side: usize) -> Result<Vec<u8>> {
    let Some((less_wide, less_high)) = scaled_size(width, height, side) else {
        return grey_png(&values, width, height);
    };
    let whole = image::GrayImage::from_raw(width as u32, height as u32, values).context("size of the map")?;
    let scaled = resize(&whole, less_wide, less_high, FilterType::Triangle);
    grey_png(scaled.as_raw(), less_wide as usize, less_high as usize)
}

/// The size of a picture whose longest side is `side`; `None` if it is not longer.
fn scaled_size(width: usize, height: usize, side: usize) -> Option<(u32, u32)> {
    let longest = width.max(height);
    let scaled = |length: usize| (length * side.max(1) / longest).max(1) as u32;
    (longest > side.max(1)).then(|| (scaled(width), scaled(height)))
}
