use std::path::Path;

use ab_glyph::{Font, PxScale, ScaleFont};

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};

use crate::Error;
use crate::fonts::{Face, face_of};

/// An RGB picture.
#[derive(Debug, Clone)]
pub struct Canvas {
    width: usize,
    height: usize,
    data: Vec<u8>,
}

/// Where the next letter goes.
struct Pen {
    x: f32,
    y: f32,
    /// Right end of the line.
    end: f32,
    height: f32,
    colour: [u8; 3],
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

    /// Writes one line of text with its top left corner at (x, y), cut off at `max_width` pixels. Letters come from the compiled-in
    /// fonts or those of the machine, without ligatures and from left to right; a letter that no font has is written as `\u{...}`
    /// ([`missing_letters`](crate::missing_letters)).
    pub fn text(&mut self, text: &str, x: usize, y: usize, height: f32, max_width: usize, colour: [u8; 3]) {
        let mut pen = Pen { x: x as f32, y: y as f32, end: (x + max_width) as f32, height, colour };
        for letter in text.chars() {
            let fits = match face_of(letter) {
                Some(face) => self.letter(&face, letter, &mut pen),
                None => letter
                    .escape_unicode()
                    .all(|letter| face_of(letter).is_none_or(|face| self.letter(&face, letter, &mut pen))),
            };
            if !fits {
                return;
            }
        }
    }

    fn letter(&mut self, face: &Face, letter: char, pen: &mut Pen) -> bool {
        match face {
            Face::BuiltIn(font) => self.glyph(*font, letter, pen),
            Face::Machine(font) => self.glyph(*font, letter, pen),
        }
    }

    /// Draws a letter and moves the pen. Returns false if it would cross the end of the line.
    fn glyph(&mut self, font: &impl Font, letter: char, pen: &mut Pen) -> bool {
        let scaled = font.as_scaled(PxScale::from(pen.height));
        let id = font.glyph_id(letter);
        let advance = scaled.h_advance(id);
        if pen.x + advance > pen.end {
            return false;
        }
        let at = ab_glyph::point(pen.x, pen.y + scaled.ascent());
        if let Some(outline) = font.outline_glyph(id.with_scale_and_position(pen.height, at)) {
            let bounds = outline.px_bounds();
            outline.draw(|dx, dy, coverage| {
                let (px, py) = (bounds.min.x as i64 + i64::from(dx), bounds.min.y as i64 + i64::from(dy));
                if (0..self.width as i64).contains(&px) && (0..self.height as i64).contains(&py) {
                    let start = (py as usize * self.width + px as usize) * 3;
                    for (value, ink) in self.data[start..start + 3].iter_mut().zip(pen.colour) {
                        *value = (f32::from(*value) * (1.0 - coverage) + f32::from(ink) * coverage) as u8;
                    }
                }
            });
        }
        pen.x += advance;
        true
    }

    /// Writes a PNG file atomically.
    ///
    /// # Errors
    /// When the file cannot be written; the message names it.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let (width, height) = (self.width as u32, self.height as u32);
        whole_file::write_with(path, |file| {
            PngEncoder::new(file)
                .write_image(&self.data, width, height, ExtendedColorType::Rgb8)
                .map_err(|source| Error::Encode { path: path.to_path_buf(), source })
        })
    }
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
