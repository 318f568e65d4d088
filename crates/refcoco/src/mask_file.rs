//! Masks that are image files.

use std::collections::BTreeSet;
use std::io::{Cursor, Read};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, ImageBuffer, ImageDecoder, Rgba};

use crate::error::{Error, Result, or_mistaken};
use crate::image_file::{decode, decoder, is_jpeg, orientation};
use crate::mask::Mask;
use crate::regular_file::{open_regular, read_regular};

/// Colour and alpha, 16 bits a sample.
type Rgba16Image = ImageBuffer<Rgba<u16>, Vec<u16>>;

/// Half of what a sample of 8 bits can be.
const HALF: u8 = 128;

/// Reads a mask from an image file, see [`decode_mask`].
///
/// # Errors
/// Names the file: not a regular file, unreadable, of another format, damaged.
pub(crate) fn read_mask(path: &Path) -> Result<Mask> {
    let bytes = read_regular(path)?;
    decode_mask(&bytes).map_err(|what| or_mistaken(path, Error::Image { path: path.to_path_buf(), what }))
}

/// The name of a file's format if that cannot hold a mask exactly. `None` if the file cannot be read.
pub(crate) fn lossy_format(path: &Path) -> Option<&'static str> {
    let mut start = Vec::new();
    open_regular(path).ok()?.take(LOSSY_START).read_to_end(&mut start).ok()?;
    lossy(&start)
}

/// Bytes of a WebP file in which the kind of its first picture is looked for.
const LOSSY_START: u64 = 4096;

fn lossy(bytes: &[u8]) -> Option<&'static str> {
    let start = &bytes[..bytes.len().min(LOSSY_START as usize)];
    let is_webp = start.starts_with(b"RIFF") && start.get(8..12) == Some(b"WEBP");
    match () {
        () if is_jpeg(start) => Some("JPEG"),
        // `VP8L` is the lossless kind.
        () if is_webp && memchr::memmem::find(start, b"VP8 ").is_some() => Some("lossy WebP"),
        () => None,
    }
}

/// Decodes a mask from the bytes of an image file. Foreground is:
///
/// - PNG with a palette: every pixel whose index is not 0
/// - an image with an alpha channel that is not constant: every pixel that is at least half opaque. If its opaque pixels are black
///   and one other colour, and at least as many are black as are transparent, only those of that other colour: the mask is in the
///   colours then, and transparency is an accident
/// - JPEG and lossy WebP, which blur edges: every pixel with a channel of at least one half
/// - grey of 8 or more levels above 0 of which the brightest is at least one half, as after scaling, blurring, or of a map of
///   probabilities: every pixel of at least one half
/// - anything else: every pixel that is not black
///
/// # Errors
/// A message that says what is wrong with the data.
pub fn decode_mask(bytes: &[u8]) -> Result<Mask, String> {
    // Also checks what the pixels take.
    let mut decoder = decoder(Cursor::new(bytes))?;
    let orientation = orientation(bytes, &mut decoder)?;
    if let Some(indices) = palette_indices(bytes)? {
        let foreground = indices.into_iter().map(|index| u8::from(index != 0)).collect();
        return turned(decoder.dimensions(), foreground, orientation);
    }
    let image = decode(decoder, orientation)?;
    let (width, height) = (image.width() as usize, image.height() as usize);
    let data = if lossy(bytes).is_some() {
        image
            .into_rgb8()
            .as_raw()
            .chunks_exact(3)
            .map(|pixel| is_any(pixel, |&level| level >= HALF))
            .collect()
    } else {
        foreground(image)
    };
    Ok(Mask { width, height, data })
}

fn is_any<T>(pixel: &[T], holds: impl Fn(&T) -> bool) -> u8 {
    u8::from(pixel.iter().any(holds))
}

fn foreground(image: DynamicImage) -> Vec<u8> {
    if let Some(wide) = with_varying_alpha(&image) {
        let alphas = wide.as_raw().chunks_exact(4).map(|pixel| pixel[3]);
        return marked_in_colour(wide.as_raw())
            .unwrap_or_else(|| alphas.map(|alpha| u8::from(alpha >= u16::from(HALF) << 8)).collect());
    }
    let wide = image.into_rgb16();
    let least = match levels_of(wide.as_raw()) {
        Levels::Soft => u16::from(HALF) << 8,
        Levels::One | Levels::Few(_) => 1,
    };
    wide.as_raw().chunks_exact(3).map(|pixel| is_any(pixel, |&level| level >= least)).collect()
}

/// The pixels, if some are more opaque than others.
fn with_varying_alpha(image: &DynamicImage) -> Option<Rgba16Image> {
    let wide = image.color().has_alpha().then(|| image.to_rgba16())?;
    let mut alphas = wide.as_raw().chunks_exact(4).map(|pixel| pixel[3]);
    let first = alphas.next();
    alphas.any(|alpha| Some(alpha) != first).then_some(wide)
}

/// Grey levels above 0 from which on a mask is soft, rather than a map of a few objects.
const SOFT: usize = 8;

/// The values above 0 of a mask file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Levels {
    /// One, or none: a plain mask.
    One,
    /// Several, as many maps of objects have: the numbers of a palette, or grey levels of 16 bits.
    Few(BTreeSet<u16>),
    /// Grey with so many levels that edges are blurred or the mask is one of probabilities.
    Soft,
}

/// - rgb: three samples of 16 bits a pixel
fn levels_of(rgb: &[u16]) -> Levels {
    let mut found = BTreeSet::new();
    let mut last = 0;
    for pixel in rgb.as_chunks::<3>().0 {
        if pixel[0] != pixel[1] || pixel[1] != pixel[2] {
            return Levels::One;
        }
        // Neighbours are mostly alike.
        if pixel[0] != last && pixel[0] > 0 {
            found.insert(pixel[0]);
        }
        last = pixel[0];
    }
    let is_soft = found.len() >= SOFT && found.last().is_some_and(|most| *most >= u16::from(HALF) << 8);
    match found.len() {
        0 | 1 => Levels::One,
        _ if is_soft => Levels::Soft,
        _ => Levels::Few(found),
    }
}

/// The values of a mask file that its pixels have, as [`decode_mask`] looks at them: [`Levels::One`] also where colours or alpha decide, and
/// of a file that cannot be read.
pub(crate) fn levels(path: &Path) -> Levels {
    let read = || -> Option<Levels> {
        let bytes = read_regular(path).ok()?;
        if lossy(&bytes).is_some() {
            return None;
        }
        if let Some(indices) = palette_indices(&bytes).ok()? {
            let found: BTreeSet<u16> =
                indices.into_iter().filter(|index| *index > 0).map(u16::from).collect();
            return (found.len() > 1).then_some(Levels::Few(found));
        }
        let image = decode(decoder(Cursor::new(&bytes)).ok()?, Orientation::NoTransforms).ok()?;
        if with_varying_alpha(&image).is_some() {
            return None;
        }
        // Widened from 8 bits, a value is 257 times what the file has.
        let factor = if image.color().bits_per_pixel() / u16::from(image.color().channel_count()) > 8 {
            1
        } else {
            257
        };
        Some(match levels_of(image.into_rgb16().as_raw()) {
            Levels::Few(levels) => Levels::Few(levels.into_iter().map(|level| level / factor).collect()),
            other => other,
        })
    };
    read().unwrap_or(Levels::One)
}

/// The pixels that are opaque and not black, if the opaque ones are black and exactly one other colour, and no more pixels are
/// transparent than are black.
///
/// - rgba: four samples a pixel
fn marked_in_colour(rgba: &[u16]) -> Option<Vec<u8>> {
    let is_opaque = |pixel: &[u16; 4]| pixel[3] >= u16::from(HALF) << 8;
    let is_black = |pixel: &[u16; 4]| pixel[..3] == [0; 3];
    let pixels = rgba.as_chunks::<4>().0;
    let mut colours = pixels.iter().filter(|pixel| is_opaque(pixel) && !is_black(pixel));
    let first = colours.next()?;
    let n_black = pixels.iter().filter(|pixel| is_opaque(pixel) && is_black(pixel)).count();
    let n_transparent = pixels.iter().filter(|pixel| !is_opaque(pixel)).count();
    let is_mask = n_black > 0 && n_black >= n_transparent && colours.all(|pixel| pixel[..3] == first[..3]);
    is_mask.then(|| pixels.iter().map(|pixel| u8::from(is_opaque(pixel) && !is_black(pixel))).collect())
}

/// The palette indices of a PNG's pixels, row by row; `None` for any other file. Colours say nothing: a segmentation's palette is
/// for people's eyes, and its background need not be black.
fn palette_indices(bytes: &[u8]) -> Result<Option<Vec<u8>>, String> {
    if !bytes.starts_with(b"\x89PNG") {
        return Ok(None);
    }
    let wrong = |error: png::DecodingError| error.to_string();
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    decoder.set_transformations(png::Transformations::IDENTITY);
    let mut reader = decoder.read_info().map_err(wrong)?;
    if reader.info().color_type != png::ColorType::Indexed {
        return Ok(None);
    }
    let size = reader.output_buffer_size().ok_or("its size is impossible")?;
    let mut rows = vec![0; size];
    let info = reader.next_frame(&mut rows).map_err(wrong)?;
    let bits = info.bit_depth as usize;
    let pixel = |row: &[u8], x: usize| {
        let byte = row[x * bits / 8];
        let shift = 8 - bits - x * bits % 8;
        (byte >> shift) & (0xff >> (8 - bits))
    };
    let rows = rows.chunks_exact(info.line_size).take(info.height as usize);
    Ok(Some(rows.flat_map(|row| (0..info.width as usize).map(move |x| pixel(row, x))).collect()))
}

/// Whether a PNG's palette suggests that index 0 is the object: it is neither black nor transparent, but another index is. False
/// for any other file.
pub(crate) fn background_is_light(path: &Path) -> bool {
    let Ok(file) = open_regular(path) else { return false };
    let Ok(reader) = png::Decoder::new(std::io::BufReader::new(file)).read_info() else { return false };
    let info = reader.info();
    let Some(colours) = info.palette.as_deref().filter(|_| info.color_type == png::ColorType::Indexed) else {
        return false;
    };
    let alphas = info.trns.as_deref().unwrap_or_default();
    let is_background = |index: usize, colour: &[u8; 3]| {
        *colour == [0; 3] || alphas.get(index).is_some_and(|alpha| *alpha < HALF)
    };
    let mut colours = colours.as_chunks::<3>().0.iter().enumerate();
    let first = colours.next().is_some_and(|(index, colour)| !is_background(index, colour));
    // Programs fill the rest of a palette with black.
    first && colours.take(1).any(|(index, colour)| is_background(index, colour))
}

/// A mask, turned as the file's EXIF data says.
fn turned((width, height): (u32, u32), data: Vec<u8>, orientation: Orientation) -> Result<Mask, String> {
    let grey = GrayImage::from_raw(width, height, data).ok_or("its size is impossible")?;
    let mut image = DynamicImage::ImageLuma8(grey);
    image.apply_orientation(orientation);
    let (width, height) = (image.width() as usize, image.height() as usize);
    Ok(Mask { width, height, data: image.into_luma8().into_raw() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png(color: png::ColorType, depth: png::BitDepth, palette: Option<&[u8]>, data: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 4, 1);
        encoder.set_color(color);
        encoder.set_depth(depth);
        if let Some(palette) = palette {
            encoder.set_palette(palette.to_vec());
        }
        encoder.write_header().unwrap().write_image_data(data).unwrap();
        bytes
    }

    fn data(bytes: &[u8]) -> Vec<u8> {
        decode_mask(bytes).unwrap().data
    }

    #[test]
    fn index_0_of_a_palette_is_background_whatever_its_colour() {
        use png::BitDepth::{Eight, One, Two};
        use png::ColorType::Indexed;
        let white_first = [255, 255, 255, 255, 0, 0, 0, 0, 0, 9, 9, 9];
        assert_eq!(data(&png(Indexed, Eight, Some(&white_first), &[0, 1, 2, 0])), [0, 1, 1, 0]);
        // Two bits and one bit a pixel.
        assert_eq!(data(&png(Indexed, Two, Some(&white_first), &[0b00_01_10_00])), [0, 1, 1, 0]);
        assert_eq!(data(&png(Indexed, One, Some(&[0; 6]), &[0b0110_0000])), [0, 1, 1, 0]);
    }

    #[test]
    fn alpha_counts_where_it_is_not_constant() {
        use png::BitDepth::Eight;
        use png::ColorType::{GrayscaleAlpha, Rgba};
        let varying = [[0, 0, 0, 0], [0, 0, 0, 255], [9, 9, 9, 200], [9, 9, 9, 10]].concat();
        assert_eq!(data(&png(Rgba, Eight, None, &varying)), [0, 1, 1, 0]);
        // White on black with one transparent pixel.
        let stray = [[0, 0, 0, 255], [255, 255, 255, 255], [255, 255, 255, 255], [0, 0, 0, 0]].concat();
        assert_eq!(data(&png(Rgba, Eight, None, &stray)), [0, 1, 1, 0]);
        let constant = [[0, 255], [255, 255], [1, 255], [0, 255]].concat();
        assert_eq!(data(&png(GrayscaleAlpha, Eight, None, &constant)), [0, 1, 1, 0]);
    }

    #[test]
    fn grey_of_1_and_16_bits() {
        use png::BitDepth::{One, Sixteen};
        use png::ColorType::Grayscale;
        assert_eq!(data(&png(Grayscale, One, None, &[0b0110_0000])), [0, 1, 1, 0]);
        assert_eq!(data(&png(Grayscale, Sixteen, None, &[0, 0, 0, 1, 1, 0, 0, 0])), [0, 1, 1, 0]);
    }

    #[test]
    fn soft_masks_are_cut_at_one_half_and_maps_of_objects_are_not() {
        let grey = |values: &[u8]| {
            let mut bytes = Vec::new();
            let mut encoder = png::Encoder::new(&mut bytes, values.len() as u32, 1);
            encoder.set_color(png::ColorType::Grayscale);
            encoder.write_header().unwrap().write_image_data(values).unwrap();
            bytes
        };
        let soft = [0, 20, 60, 100, 127, 128, 160, 200, 255];
        assert_eq!(data(&grey(&soft)), [0, 0, 0, 0, 0, 1, 1, 1, 1]);
        // Numbers of objects: too few, or none of them bright.
        assert_eq!(data(&grey(&[0, 1, 2, 255])), [0, 1, 1, 1]);
        assert_eq!(data(&grey(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9])), [0, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
        let folder = tempfile::tempdir().unwrap();
        let of = |bytes: &[u8]| {
            let path = folder.path().join("a.png");
            std::fs::write(&path, bytes).unwrap();
            levels(&path)
        };
        assert_eq!(of(&grey(&soft)), Levels::Soft);
        assert_eq!(of(&grey(&[0, 1, 2, 255])), Levels::Few([1, 2, 255].into()));
        assert_eq!(of(&grey(&[0, 255, 255, 0])), Levels::One);
        let palette = png(png::ColorType::Indexed, png::BitDepth::Eight, Some(&[0; 12]), &[0, 1, 2, 1]);
        assert_eq!(of(&palette), Levels::Few([1, 2].into()));
        assert_eq!(of(b"no picture"), Levels::One);
    }

    #[test]
    fn lossy_formats_are_told_apart() {
        assert_eq!(lossy(&[0xff, 0xd8, 0xff]), Some("JPEG"));
        assert_eq!(lossy(b"RIFF\x10\0\0\0WEBPVP8 \0"), Some("lossy WebP"));
        assert_eq!(lossy(b"RIFF\x10\0\0\0WEBPVP8X\x0a\0\0\0----------VP8 "), Some("lossy WebP"));
        assert_eq!(lossy(b"RIFF\x10\0\0\0WEBPVP8L\0"), None);
        assert_eq!(lossy(b"\x89PNG"), None);
    }

    #[test]
    fn a_jpeg_is_cut_at_one_half() {
        let grey = GrayImage::from_fn(16, 16, |x, _| image::Luma([if x < 8 { 20 } else { 240 }]));
        let mut bytes = Vec::new();
        DynamicImage::ImageLuma8(grey)
            .write_to(&mut Cursor::new(&mut bytes), image::ImageFormat::Jpeg)
            .unwrap();
        assert_eq!(decode_mask(&bytes).unwrap().area(), 128);
    }
}
