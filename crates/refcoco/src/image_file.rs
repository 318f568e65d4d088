use std::io::{BufRead, BufReader, Cursor, Seek};
use std::path::Path;

use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageReader, Limits};

use crate::error::{Error, Result};
use crate::mask::Mask;
use crate::memory_rule::afford_pixels;
use crate::regular_file::{open_regular, read_regular};

/// An image in memory: RGB, 8 bits, row-major.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RgbImage {
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
    /// `height * width * 3` bytes.
    pub data: Vec<u8>,
}

/// What headers, colour profiles and text may take beside the pixels.
const MAX_HEADERS: u64 = 64 << 20;

/// Decodes a JPEG or PNG file, whatever its name says, and applies its EXIF orientation. Grey becomes RGB, alpha
/// is dropped, 16 bits are cut to 8.
///
/// # Errors
/// Names the file: not a regular file, unreadable, of another format, damaged, or one that takes more memory than 1 GiB or what
/// `TALENT_MAX_IMAGE_MIB` allows.
pub fn read_image(path: &Path) -> Result<RgbImage> {
    read_image_to_work_on(path, 0)
}

/// As [`read_image`], for work that takes memory of its own.
///
/// - bytes_per_pixel: that the caller takes besides
///
/// # Errors
/// As [`read_image`].
pub fn read_image_to_work_on(path: &Path, bytes_per_pixel: u64) -> Result<RgbImage> {
    let bytes = read_regular(path)?;
    check_size(&bytes, bytes_per_pixel)
        .and_then(|()| decode_image(&bytes))
        .map_err(|what| Error::Image { path: path.to_path_buf(), what })
}

/// Checks what the decoded pixels and the caller's work take together.
fn check_size(bytes: &[u8], bytes_per_pixel: u64) -> Result<(), String> {
    let (width, height) = decoder(Cursor::new(bytes))?.dimensions();
    afford_pixels(width.into(), height.into(), 3 + bytes_per_pixel)
}

/// Decodes a JPEG or PNG in memory, as [`read_image`] does.
///
/// # Errors
/// What is wrong with it.
pub fn decode_image(bytes: &[u8]) -> Result<RgbImage, String> {
    decode_image_into(bytes, Vec::new())
}

/// [`decode_image`] into the memory of an image that is no longer needed.
pub(crate) fn decode_image_into(bytes: &[u8], mut memory: Vec<u8>) -> Result<RgbImage, String> {
    let mut decoder = decoder(Cursor::new(bytes))?;
    let orientation = orientation(bytes, &mut decoder)?;
    if decoder.color_type() == ColorType::Rgb8 && orientation == Orientation::NoTransforms {
        let (width, height) = decoder.dimensions();
        // Cleared, because decoders leave what a damaged file lacks as it was.
        memory.clear();
        memory.resize(width as usize * height as usize * 3, 0);
        decoder.read_image(&mut memory).map_err(|error| error.to_string())?;
        return Ok(RgbImage { width: width as usize, height: height as usize, data: memory });
    }
    let rgb = match decode(decoder, orientation)? {
        // The high byte, where `to_rgb8` would round.
        image @ (DynamicImage::ImageRgb16(_)
        | DynamicImage::ImageRgba16(_)
        | DynamicImage::ImageLuma16(_)
        | DynamicImage::ImageLumaA16(_)) => {
            let wide = image.to_rgb16();
            let (width, height) = wide.dimensions();
            let data = wide.into_raw().into_iter().map(|value| (value >> 8) as u8).collect();
            return Ok(RgbImage { width: width as usize, height: height as usize, data });
        }
        image => image.into_rgb8(),
    };
    let (width, height) = rgb.dimensions();
    Ok(RgbImage { width: width as usize, height: height as usize, data: rgb.into_raw() })
}

/// A decoder within the limits; only the file's header has been read.
fn decoder<'a>(source: impl BufRead + Seek + 'a) -> Result<impl ImageDecoder + 'a, String> {
    let mut reader = ImageReader::new(source).with_guessed_format().map_err(|error| error.to_string())?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_HEADERS);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(|error| error.to_string())?;
    let (width, height) = decoder.dimensions();
    afford_pixels(width.into(), height.into(), bytes_per_pixel(decoder.color_type()))?;
    Ok(decoder)
}

/// What a pixel takes on its way to RGB of 8 bits: in the file's own format, and in those it is converted to.
fn bytes_per_pixel(color: ColorType) -> u64 {
    let own = u64::from(color.bytes_per_pixel());
    match color {
        ColorType::Rgb8 => own,
        ColorType::L16 | ColorType::La16 | ColorType::Rgb16 | ColorType::Rgba16 => own + 6 + 3,
        _ => own + 3,
    }
}

/// The EXIF orientation. A decoder parses all headers anew for it, so it is asked only where there is EXIF data.
fn orientation(bytes: &[u8], decoder: &mut impl ImageDecoder) -> Result<Orientation, String> {
    let is_plain_jpeg = is_jpeg(bytes) && memchr::memmem::find(bytes, b"Exif\0\0").is_none();
    match is_plain_jpeg {
        true => Ok(Orientation::NoTransforms),
        false => decoder.orientation().map_err(|error| error.to_string()),
    }
}

fn is_jpeg(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0xff, 0xd8])
}

/// Decodes in the file's own pixel format and turns the image as its EXIF data says.
fn decode(decoder: impl ImageDecoder, orientation: Orientation) -> Result<DynamicImage, String> {
    let mut image = DynamicImage::from_decoder(decoder).map_err(|error| error.to_string())?;
    image.apply_orientation(orientation);
    Ok(image)
}

/// Width and height that [`read_image`] would give, without decoding.
///
/// # Errors
/// As [`read_image`], but damage behind the header is not seen.
pub fn image_size(path: &Path) -> Result<(usize, usize)> {
    let fail = |what: String| Error::Image { path: path.to_path_buf(), what };
    let file = open_regular(path)?;
    let mut decoder = decoder(BufReader::new(file)).map_err(fail)?;
    let (width, height) = decoder.dimensions();
    let turned = matches!(
        decoder.orientation().map_err(|error| fail(error.to_string()))?,
        Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH
    );
    let (width, height) = if turned { (height, width) } else { (width, height) };
    Ok((width as usize, height as usize))
}

/// Reads a mask from an image file: foreground is every pixel that is not black, whatever its transparency.
///
/// # Errors
/// Names the file: unreadable, of another format, damaged.
pub(crate) fn read_mask(path: &Path) -> Result<Mask> {
    let bytes = read_regular(path)?;
    let fail = |what: String| Error::Image { path: path.to_path_buf(), what };
    let mut decoder = decoder(Cursor::new(&bytes)).map_err(fail)?;
    let orientation = orientation(&bytes, &mut decoder).map_err(fail)?;
    let rgb = decode(decoder, orientation).map_err(fail)?.into_rgb16();
    let (width, height) = rgb.dimensions();
    let data = rgb.as_raw().chunks_exact(3).map(|pixel| u8::from(pixel.iter().any(|&level| level > 0)));
    Ok(Mask { width: width as usize, height: height as usize, data: data.collect() })
}

/// Whether a JPEG lacks its end marker, as a file does whose copying was interrupted. Decoders fill in what is missing.
pub(crate) fn is_cut_short(bytes: &[u8]) -> bool {
    // In entropy-coded data 0xff is always followed by 0, so the marker cannot occur there by chance.
    is_jpeg(bytes) && !bytes.windows(2).any(|pair| pair == [0xff, 0xd9])
}
