use std::io::Write;
use std::path::Path;

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder, ImageResult};

use crate::Error;
use crate::raster::line_of_text;

/// An RGB picture.
#[derive(Debug, Clone)]
pub struct Canvas {
    width: usize,
    height: usize,
    data: Vec<u8>,
}

impl Canvas {
    /// A picture filled with one colour.
    pub fn new(width: usize, height: usize, colour: [u8; 3]) -> Self {
        Self { width, height, data: colour.repeat(width * height) }
    }

    /// A picture from `height * width * 3` bytes, row-major.
    ///
    /// # Panics
    /// When the number of bytes is not `height * width * 3`.
    pub fn from_rgb(width: usize, height: usize, data: Vec<u8>) -> Self {
        assert_eq!(data.len(), width * height * 3, "bytes of an RGB picture");
        Self { width, height, data }
    }

    /// Width in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// RGB bytes, row-major.
    pub fn rgb(&self) -> &[u8] {
        &self.data
    }

    /// Scales by nearest neighbour to fit into a box, keeping the aspect ratio.
    pub fn fit(&self, width: usize, height: usize) -> Self {
        let scale = (width as f64 / self.width as f64).min(height as f64 / self.height as f64);
        let side = |n: usize, limit: usize| ((n as f64 * scale).round() as usize).clamp(1, limit.max(1));
        let mut out = Self::new(side(self.width, width), side(self.height, height), [0; 3]);
        for y in 0..out.height {
            for x in 0..out.width {
                let at = |n: usize| ((n as f64 + 0.5) / scale) as usize;
                let source = (at(y).min(self.height - 1) * self.width + at(x).min(self.width - 1)) * 3;
                let target = (y * out.width + x) * 3;
                out.data[target..target + 3].copy_from_slice(&self.data[source..source + 3]);
            }
        }
        out
    }

    /// Pastes a picture with its top left corner at (x, y), clipped to this one.
    pub fn paste(&mut self, picture: &Self, x: usize, y: usize) {
        let columns = picture.width.min(self.width.saturating_sub(x));
        for row in 0..picture.height.min(self.height.saturating_sub(y)) {
            let (from, to) = (row * picture.width * 3, ((y + row) * self.width + x) * 3);
            self.data[to..to + columns * 3].copy_from_slice(&picture.data[from..from + columns * 3]);
        }
    }

    /// Writes one line of text with its top left corner at (x, y), cut off at `max_width` pixels, with the kerning and in the writing
    /// direction of its script. Letters come from the compiled-in fonts or those of the machine; one that no font has is written as
    /// `\u{...}` ([`missing_letters`](crate::missing_letters)).
    pub fn text(&mut self, text: &str, x: usize, y: usize, height: f32, max_width: usize, colour: [u8; 3]) {
        let room = max_width.min(self.width.saturating_sub(x));
        let Some(line) = (room > 0).then(|| line_of_text(text, height, room)).flatten() else { return };
        for (row, coverage) in line.coverage.chunks_exact(line.width).enumerate() {
            if y + row >= self.height {
                break;
            }
            let start = ((y + row) * self.width + x) * 3;
            for (pixel, &share) in self.data[start..].chunks_exact_mut(3).zip(coverage) {
                for (value, ink) in pixel.iter_mut().zip(colour) {
                    let (of, share) = (u32::from(*value), u32::from(share));
                    *value = ((of * (255 - share) + u32::from(ink) * share) / 255) as u8;
                }
            }
        }
    }

    fn encode(&self, into: impl Write) -> ImageResult<()> {
        let (width, height) = (self.width as u32, self.height as u32);
        PngEncoder::new(into).write_image(&self.data, width, height, ExtendedColorType::Rgb8)
    }

    /// The picture as a PNG file in memory.
    ///
    /// # Errors
    /// When the encoder fails.
    pub fn png(&self) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        self.encode(&mut bytes).map_err(|error| Error::Draw(error.to_string()))?;
        Ok(bytes)
    }

    /// Writes a PNG file atomically.
    ///
    /// # Errors
    /// When the file cannot be written; the message names it.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        whole_file::write_with(path, |file| {
            self.encode(file).map_err(|source| Error::Encode { path: path.to_path_buf(), source })
        })
    }
}

/// Writes a mask as a grey PNG file, 255 inside and 0 outside.
///
/// - mask: `height * width` bytes, 0 outside
///
/// # Errors
/// When the file cannot be written.
pub fn save_mask(path: &Path, width: usize, mask: &[u8]) -> Result<(), Error> {
    let grey: Vec<u8> = mask.iter().map(|&pixel| if pixel == 0 { 0 } else { 255 }).collect();
    let height = mask.len() / width.max(1);
    let mut bytes = Vec::new();
    PngEncoder::new(&mut bytes)
        .write_image(&grey, width as u32, height as u32, ExtendedColorType::L8)
        .map_err(|error| Error::Draw(format!("{}: {error}", path.display())))?;
    Ok(whole_file::write(path, &bytes)?)
}

/// A picture with everything outside a mask dimmed, and the mask's outline drawn in a colour.
///
/// - mask: `height * width` bytes, row-major, foreground where not zero
///
/// # Panics
/// When the sizes differ.
pub fn overlay(mut picture: Canvas, mask: &[u8], colour: [u8; 3]) -> Canvas {
    let (width, height) = (picture.width, picture.height);
    assert_eq!(mask.len(), width * height, "picture and mask differ in size");
    let inside = |x: i64, y: i64| {
        x >= 0
            && y >= 0
            && x < width as i64
            && y < height as i64
            && mask[y as usize * width + x as usize] != 0
    };
    for y in 0..height as i64 {
        for x in 0..width as i64 {
            let neighbours = [(1, 0), (-1, 0), (0, 1), (0, -1)];
            let here = inside(x, y);
            let edge = here && neighbours.into_iter().any(|(dx, dy)| !inside(x + dx, y + dy));
            let start = (y as usize * width + x as usize) * 3;
            for (value, ink) in picture.data[start..start + 3].iter_mut().zip(colour) {
                *value = match (edge, here) {
                    (true, _) => ink,
                    (_, true) => *value,
                    _ => (f32::from(*value) * DIMMED) as u8,
                };
            }
        }
    }
    picture
}

/// Share of the brightness that is kept outside the mask.
const DIMMED: f32 = 0.4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_outlines_the_mask_and_dims_the_rest() {
        let picture = Canvas::new(4, 3, [100; 3]);
        let mut mask = vec![0; 12];
        mask[5] = 1;
        let out = overlay(picture.clone(), &mask, [255, 0, 0]);
        assert_eq!(out.rgb()[15..18], [255, 0, 0]);
        assert_eq!(out.rgb()[..15], [40; 15]);
    }

    #[test]
    fn text_leaves_ink_and_stays_in_bounds() {
        let mut canvas = Canvas::new(60, 20, [255; 3]);
        canvas.text("left circle", 2, 2, 16.0, 40, [0; 3]);
        let dark = |x: usize| (0..20).any(|y| canvas.rgb()[(y * 60 + x) * 3] < 128);
        assert!((2..42).any(dark));
        assert!(!(44..60).any(dark));
        canvas.text("beyond", 55, 18, 30.0, 500, [0; 3]);
    }

    #[test]
    fn fitting_keeps_the_aspect() {
        let fitted = Canvas::new(200, 100, [9; 3]).fit(50, 50);
        assert_eq!((fitted.width(), fitted.height()), (50, 25));
    }
}
