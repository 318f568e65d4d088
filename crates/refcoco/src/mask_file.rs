//! Masks that are image files.

use std::io::{Cursor, Read};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, ImageDecoder};

use crate::error::{Error, Result, io_error, or_mistaken};
use crate::image_file::{decode, decoder, is_jpeg, orientation};
use crate::mask::Mask;
use crate::regular_file::{open_regular, read_regular};

/// Half of what a sample of 8 bits can be.
const HALF: u8 = 128;

/// Reads a mask from an image file. Foreground is:
///
/// - PNG with a palette: every pixel whose index is not 0
/// - an image with an alpha channel that is not constant: every pixel that is at least half opaque
/// - JPEG, which blurs edges: every pixel with a channel of at least one half
/// - anything else: every pixel that is not black
///
/// # Errors
/// Names the file: not a regular file, unreadable, of another format, damaged.
pub(crate) fn read_mask(path: &Path) -> Result<Mask> {
    let bytes = read_regular(path)?;
    mask_of(&bytes).map_err(|what| or_mistaken(path, Error::Image { path: path.to_path_buf(), what }))
}

/// Whether a file is a JPEG, which cannot hold a mask exactly. False if it cannot be read.
pub(crate) fn is_jpeg_file(path: &Path) -> bool {
    let mut start = [0; 2];
    open_regular(path).and_then(|mut file| file.read_exact(&mut start).map_err(io_error(path))).is_ok()
        && is_jpeg(&start)
}

fn mask_of(bytes: &[u8]) -> Result<Mask, String> {
    // Also checks what the pixels take.
    let mut decoder = decoder(Cursor::new(bytes))?;
    let orientation = orientation(bytes, &mut decoder)?;
    if let Some(foreground) = palette_foreground(bytes)? {
        return turned(decoder.dimensions(), foreground, orientation);
    }
    let image = decode(decoder, orientation)?;
    let (width, height) = (image.width() as usize, image.height() as usize);
    let data = if is_jpeg(bytes) {
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
    if image.color().has_alpha() {
        let wide = image.to_rgba16();
        let alphas = || wide.as_raw().chunks_exact(4).map(|pixel| pixel[3]);
        let first = alphas().next();
        if alphas().any(|alpha| Some(alpha) != first) {
            return alphas().map(|alpha| u8::from(alpha >= u16::from(HALF) << 8)).collect();
        }
    }
    image.into_rgb16().as_raw().chunks_exact(3).map(|pixel| is_any(pixel, |&level| level > 0)).collect()
}

/// The pixels of a PNG with a palette whose index is not 0, row by row; `None` for any other file. Colours say nothing: a
/// segmentation's palette is for people's eyes, and its background need not be black.
fn palette_foreground(bytes: &[u8]) -> Result<Option<Vec<u8>>, String> {
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
        u8::from((byte >> shift) & (0xff >> (8 - bits)) != 0)
    };
    let rows = rows.chunks_exact(info.line_size).take(info.height as usize);
    Ok(Some(rows.flat_map(|row| (0..info.width as usize).map(move |x| pixel(row, x))).collect()))
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
        mask_of(bytes).unwrap().data
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
    fn a_jpeg_is_cut_at_one_half() {
        let grey = GrayImage::from_fn(16, 16, |x, _| image::Luma([if x < 8 { 20 } else { 240 }]));
        let mut bytes = Vec::new();
        DynamicImage::ImageLuma8(grey)
            .write_to(&mut Cursor::new(&mut bytes), image::ImageFormat::Jpeg)
            .unwrap();
        assert_eq!(mask_of(&bytes).unwrap().area(), 128);
    }
}
