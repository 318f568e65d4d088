use std::io::{BufRead, BufReader, Cursor, Seek};
use std::path::Path;

use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageError, ImageReader, Limits};

use crate::error::{Error, Result, or_mistaken};
use crate::memory_rule::afford_pixels;
use crate::regular_file::{open_regular, read_regular};

/// An image in memory: RGB, 8 bits, row-major.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RgbImage {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// `height * width * 3` bytes.
    pub data: Vec<u8>,
}

/// A decoded file, and what is odd about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadImage {
    /// The pixels.
    pub image: RgbImage,
    /// A JPEG without an end marker, as after an interrupted copy. Its missing pixels are filled in by the decoder.
    pub is_cut_short: bool,
}

/// Memory limit for headers, colour profiles and text, beside the pixels, in bytes.
const MAX_HEADERS: u64 = 64 << 20;

/// Decodes a JPEG, PNG, TIFF or WebP file, recognised by its content and not its name, and applies its EXIF orientation. Grey
/// becomes RGB, alpha is dropped, 16-bit values keep their high byte.
///
/// # Errors
/// When the file is not a regular file, is unreadable, damaged or of another format, or would take more memory than 1 GiB or
/// what `TALENT_MAX_IMAGE_MIB` allows. The error names the file.
pub fn read_image(path: &Path) -> Result<RgbImage> {
    Ok(read_image_to_work_on(path, 0)?.image)
}

/// [`read_image`] with a memory check that includes the caller's own buffers, and with a notice of a JPEG that is cut short.
///
/// - bytes_per_pixel: bytes per pixel that the caller allocates in addition
///
/// # Errors
/// As [`read_image`].
pub fn read_image_to_work_on(path: &Path, bytes_per_pixel: u64) -> Result<ReadImage> {
    let bytes = read_regular(path)?;
    check_size(&bytes, bytes_per_pixel)
        .and_then(|()| decode_image(&bytes))
        .map(|image| ReadImage { image, is_cut_short: is_cut_short(&bytes) })
        .map_err(|what| or_mistaken(path, Error::Image { path: path.to_path_buf(), what }))
}

/// Checks the memory that the decoded pixels and the caller's buffers take together.
fn check_size(bytes: &[u8], bytes_per_pixel: u64) -> Result<(), String> {
    let (width, height) = decoder(Cursor::new(bytes))?.dimensions();
    afford_pixels(width.into(), height.into(), 3 + bytes_per_pixel)
}

/// Decodes a JPEG or PNG in memory, as [`read_image`] does.
///
/// # Errors
/// A message that says what is wrong with the data.
pub fn decode_image(bytes: &[u8]) -> Result<RgbImage, String> {
    decode_image_into(bytes, Vec::new())
}

/// [`decode_image`] into a reused buffer.
pub(crate) fn decode_image_into(bytes: &[u8], mut memory: Vec<u8>) -> Result<RgbImage, String> {
    let mut decoder = decoder(Cursor::new(bytes))?;
    let orientation = orientation(bytes, &mut decoder)?;
    if decoder.color_type() == ColorType::Rgb8 && orientation == Orientation::NoTransforms {
        let (width, height) = decoder.dimensions();
        // Zeroed, because decoders do not write pixels that a damaged file lacks.
        memory.clear();
        memory.resize(width as usize * height as usize * 3, 0);
        decoder.read_image(&mut memory).map_err(|error| error.to_string())?;
        return Ok(RgbImage { width: width as usize, height: height as usize, data: memory });
    }
    let rgb = match decode(decoder, orientation)? {
        // Takes the high byte; `to_rgb8` would round.
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

/// Width and height of a picture in memory, from its header and as its EXIF orientation turns it.
///
/// # Errors
/// A message that says what is wrong with the data.
pub fn encoded_size(bytes: &[u8]) -> Result<(usize, usize), String> {
    let mut decoder = decoder(Cursor::new(bytes))?;
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    Ok(if exchanges_sides(orientation(bytes, &mut decoder)?) { (height, width) } else { (width, height) })
}

/// Creates a decoder with the memory limits. Reads only the file's header.
pub(crate) fn decoder<'a>(mut source: impl BufRead + Seek + 'a) -> Result<impl ImageDecoder + 'a, String> {
    let start = source.fill_buf().map_err(|error| error.to_string())?;
    if let Some(kind) = unread_format(start) {
        return Err(format!(
            "this is {kind}, which is not read here: save it as PNG, or as JPEG if it is a photo"
        ));
    }
    let mut reader = ImageReader::new(source).with_guessed_format().map_err(|error| error.to_string())?;
    if reader.format().is_none() {
        return Err("it is no picture that is read here: JPEG, PNG, TIFF or WebP".to_owned());
    }
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_HEADERS);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(|error| match error {
        // TIFF has more kinds of samples than the others.
        ImageError::Unsupported(error) => {
            format!("{error}; save it with 8 or 16 bits a sample, in grey or RGB")
        }
        error => error.to_string(),
    })?;
    if matches!(decoder.color_type(), ColorType::Rgb32F | ColorType::Rgba32F) {
        return Err(
            "its samples are floating-point numbers, whose range is not known: save it with 8 bits a sample"
                .to_owned(),
        );
    }
    let (width, height) = decoder.dimensions();
    afford_pixels(width.into(), height.into(), bytes_per_pixel(decoder.color_type()))?;
    Ok(decoder)
}

/// Name of the format of a picture, or of an array, that is not read here; `None` for others.
fn unread_format(start: &[u8]) -> Option<&'static str> {
    let marks: [(&[u8], &str); 15] = [
        (b"BM", "a BMP picture"),
        (b"GIF8", "a GIF picture"),
        (b"\0\0\0\x0CjP  ", "a JPEG 2000 picture"),
        (b"\xFF\x4F\xFF\x51", "a JPEG 2000 picture"),
        (b"\0\0\0\x0CJXL ", "a JPEG XL picture"),
        (b"\xFF\x0A", "a JPEG XL picture"),
        (b"II\x2B\0", "a BigTIFF picture"),
        (b"MM\0\x2B", "a BigTIFF picture"),
        (b"8BPS", "a Photoshop file"),
        (b"%PDF", "a PDF document"),
        (b"\x76\x2F\x31\x01", "an OpenEXR picture"),
        (b"qoif", "a QOI picture"),
        (b"\x93NUMPY", "a NumPy array"),
        (b"\x89HDF", "an HDF5 file"),
        (b"<svg", "an SVG drawing"),
    ];
    let brand = start.get(8..12).filter(|_| start.get(4..8) == Some(b"ftyp"));
    let of_brand = brand.and_then(|brand| match brand {
        b"avif" | b"avis" => Some("an AVIF picture"),
        b"heic" | b"heix" | b"hevc" | b"hevx" | b"heim" | b"heis" | b"mif1" | b"msf1" => {
            Some("a HEIC picture, as iPhones take them")
        }
        _ => None,
    });
    let is_pnm = matches!(start, [b'P', b'1'..=b'7', b' ' | b'\n' | b'\r' | b'\t', ..]);
    let marked = marks.iter().find(|(mark, _)| start.starts_with(mark)).map(|(_, kind)| *kind);
    of_brand.or(marked).or(is_pnm.then_some("a PNM picture"))
}

/// Bytes per pixel while decoding to 8-bit RGB: in the file's own format, and in those it is converted to.
fn bytes_per_pixel(color: ColorType) -> u64 {
    let own = u64::from(color.bytes_per_pixel());
    match color {
        ColorType::Rgb8 => own,
        ColorType::L16 | ColorType::La16 | ColorType::Rgb16 | ColorType::Rgba16 => own + 6 + 3,
        _ => own + 3,
    }
}

/// The EXIF orientation. Reading it makes the decoder parse all headers again, so JPEGs without EXIF data skip it.
pub(crate) fn orientation(bytes: &[u8], decoder: &mut impl ImageDecoder) -> Result<Orientation, String> {
    let is_plain_jpeg = is_jpeg(bytes) && memchr::memmem::find(bytes, b"Exif\0\0").is_none();
    match is_plain_jpeg {
        true => Ok(Orientation::NoTransforms),
        false => decoder.orientation().map_err(|error| error.to_string()),
    }
}

pub(crate) fn is_jpeg(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0xff, 0xd8])
}

/// What an image's EXIF orientation does to its pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExifTurn {
    /// Nothing, or it cannot be read.
    None,
    /// Mirrors it, or turns it upside down.
    SameSides,
    /// Turns it on its side.
    ExchangesSides,
}

/// Whether a picture's EXIF orientation exchanges its width and height. False also if the file cannot be read.
pub fn is_turned_by_exif(path: &Path) -> bool {
    read_regular(path).is_ok_and(|bytes| ExifTurn::of(&bytes) == ExifTurn::ExchangesSides)
}

impl ExifTurn {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let read = decoder(Cursor::new(bytes)).and_then(|mut decoder| orientation(bytes, &mut decoder));
        match read {
            Err(_) | Ok(Orientation::NoTransforms) => Self::None,
            Ok(orientation) if exchanges_sides(orientation) => Self::ExchangesSides,
            Ok(_) => Self::SameSides,
        }
    }
}

fn exchanges_sides(orientation: Orientation) -> bool {
    matches!(
        orientation,
        Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH
    )
}

/// Decodes in the file's own pixel format and applies the EXIF orientation.
pub(crate) fn decode(decoder: impl ImageDecoder, orientation: Orientation) -> Result<DynamicImage, String> {
    let mut image = DynamicImage::from_decoder(decoder).map_err(|error| error.to_string())?;
    image.apply_orientation(orientation);
    Ok(image)
}

/// Width and height that [`read_image`] would return, without decoding.
///
/// # Errors
/// As [`read_image`], but damage after the header is not detected.
pub fn image_size(path: &Path) -> Result<(usize, usize)> {
    let fail = |what: String| or_mistaken(path, Error::Image { path: path.to_path_buf(), what });
    let file = open_regular(path)?;
    let mut decoder = decoder(BufReader::new(file)).map_err(fail)?;
    let (width, height) = decoder.dimensions();
    let orientation = decoder.orientation().map_err(|error| fail(error.to_string()))?;
    let (width, height) = if exchanges_sides(orientation) { (height, width) } else { (width, height) };
    Ok((width as usize, height as usize))
}

/// Whether a JPEG lacks its end marker, as after an interrupted copy. Decoders fill in the missing part without an error.
pub fn is_cut_short(bytes: &[u8]) -> bool {
    // In entropy-coded data 0xff is always followed by 0, so the marker cannot occur there by chance.
    is_jpeg(bytes) && memchr::memmem::find(scan(bytes), &[0xff, 0xd9]).is_none()
}

/// A JPEG from its first scan on, without the header segments, which may hold a thumbnail with an end marker of its own.
fn scan(bytes: &[u8]) -> &[u8] {
    let mut rest = bytes.get(2..).unwrap_or_default();
    while let [0xff, marker, high, low, ..] = *rest {
        let length = usize::from(u16::from_be_bytes([high, low]));
        let n = match marker {
            0xda => break,
            // A fill byte.
            0xff => 1,
            _ => 2 + length,
        };
        rest = rest.get(n..).unwrap_or_default();
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_that_are_not_read_are_named() {
        for (start, name) in [
            (&b"\0\0\0\x18ftypheic\0\0\0\0"[..], "HEIC"),
            (b"\0\0\0\x1cftypavif", "AVIF"),
            (b"BM\x36\0", "BMP"),
            (b"P6\n2 2\n255\n", "PNM"),
            (b"\x93NUMPY\x01\0", "NumPy"),
            (b"hello", "JPEG, PNG, TIFF or WebP"),
        ] {
            let error = decode_image(start).unwrap_err();
            assert!(error.contains(name), "{name}: {error}");
        }
    }

    #[test]
    fn a_jpeg_is_whole_with_an_end_marker_behind_its_headers() {
        // The header segment holds a thumbnail, with an end marker of its own.
        let header = b"\xff\xd8\xff\xe1\x00\x06\xff\xd8\xff\xd9\xff\xda\x00\x02";
        let whole = [header, &b"pixels\xff\x00\xff\xd9"[..], b"what a camera appends"].concat();
        assert!(!is_cut_short(&whole));
        assert!(is_cut_short(&[header, &b"pixels\xff\x00"[..]].concat()));
        // Cut inside a header, and not a JPEG.
        assert!(is_cut_short(&header[..7]) && is_cut_short(&header[..2]) && !is_cut_short(b"\x89PNG"));
    }
}
