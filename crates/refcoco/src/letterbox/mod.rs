//! Letterbox geometry and the warps between an image and the square the network sees.
//!
//! The reference data path warps with OpenCV 4, whose fixed-point arithmetic decides every pixel: coordinates are rounded to
//! 1/32 pixel, 8-bit weights are in units of 1/32768. The same arithmetic is used here.

mod rows;
mod weights;

use self::rows::{Axes, Place, Places, Row, WIDE};
use self::weights::{STEPS, cubic_weights, linear_weights};
use crate::image_file::RgbImage;
use crate::mask::Mask;

/// Pixel normalisation of an image encoder.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normalisation {
    /// Mean of R, G and B, in units of 255.
    pub mean: [f32; 3],
    /// Standard deviation of R, G and B, in units of 255.
    pub std: [f32; 3],
    /// Border colour of a letterboxed image, RGB.
    pub border: [u8; 3],
}

impl Normalisation {
    /// CLIP's normalisation, which TALENT uses. The border is the mean colour in 8 bits.
    pub const CLIP: Self = Self {
        mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
        std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
        border: [123, 117, 104],
    };

    /// Normalised value of every 8-bit level, for R, G and B.
    fn levels(&self) -> [[f32; 256]; 3] {
        let of =
            |channel: usize, value: usize| (value as f32 / 255.0 - self.mean[channel]) / self.std[channel];
        [0, 1, 2].map(|channel| std::array::from_fn(|value| of(channel, value)))
    }
}

/// A 2 x 3 affine matrix, rows `[a, b, c]`: `x' = a x + b y + c`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Affine(pub [[f64; 3]; 2]);

impl Affine {
    /// Solves for the map that takes three points to three others.
    fn through(from: [[f64; 2]; 3], to: [[f64; 2]; 3]) -> Self {
        let [p, q, r] = from;
        let det = (q[0] - p[0]) * (r[1] - p[1]) - (r[0] - p[0]) * (q[1] - p[1]);
        Self([0, 1].map(|row| {
            let (dq, dr) = (to[1][row] - to[0][row], to[2][row] - to[0][row]);
            let a = (dq * (r[1] - p[1]) - dr * (q[1] - p[1])) / det;
            let b = (dr * (q[0] - p[0]) - dq * (r[0] - p[0])) / det;
            [a, b, to[0][row] - a * p[0] - b * p[1]]
        }))
    }

    /// The inverse, in the order of operations OpenCV uses.
    fn inverse(&self) -> Self {
        let [[a, b, c], [d, e, f]] = self.0;
        let det = a * e - b * d;
        let det = if det != 0.0 { 1.0 / det } else { 0.0 };
        let (ia, ie, ib, id) = (e * det, a * det, -b * det, -d * det);
        Self([[ia, ib, -ia * c - ib * f], [id, ie, -id * c - ie * f]])
    }
}

/// Affine maps between an image and its letterbox: centred in a square, aspect ratio kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Letterbox {
    /// Original width.
    pub width: usize,
    /// Original height.
    pub height: usize,
    /// Side of the square.
    pub size: usize,
    /// Map from image to square.
    pub to_input: Affine,
    /// Map from square to image. Solved separately, so not the exact inverse.
    pub to_image: Affine,
}

impl Letterbox {
    /// The letterbox of a `width` x `height` image in a square of side `size`. All must be at least 1.
    pub fn new(width: usize, height: usize, size: usize) -> Self {
        let (w, h, side) = (width as f64, height as f64, size as f64);
        let scale = (side / h).min(side / w);
        let (new_w, new_h) = (w * scale, h * scale);
        let (x, y) = ((side - new_w) / 2.0, (side - new_h) / 2.0);
        let narrow = |points: [[f64; 2]; 3]| points.map(|point| point.map(|value| f64::from(value as f32)));
        let image = narrow([[0.0, 0.0], [w, 0.0], [0.0, h]]);
        let input = narrow([[x, y], [new_w + x, y], [x, new_h + y]]);
        Self {
            width,
            height,
            size,
            to_input: Affine::through(image, input),
            to_image: Affine::through(input, image),
        }
    }

    /// Warps an image into the square: bicubic, surrounded by the border colour. RGB, row-major, `size * size * 3` bytes.
    pub fn image(&self, image: &RgbImage, border: [u8; 3]) -> Vec<u8> {
        let mut out = border.repeat(self.size * self.size);
        self.image_rows(image, border, |y, row| {
            let target = out[(y * self.size + row.first) * 3..].chunks_exact_mut(3);
            for (pixel, wide) in target.zip(row.pixels.chunks_exact(WIDE)) {
                pixel.copy_from_slice(&wide[..3]);
            }
        });
        out
    }

    /// Warps an image into the square and normalises it: `(value / 255 - mean) / std` in planes R, G, B.
    pub fn normalised_image(&self, image: &RgbImage, pixels: &Normalisation) -> Vec<f32> {
        let mut out = vec![0.0; 3 * self.size * self.size];
        self.normalised_image_into(image, pixels, &mut out);
        out
    }

    /// [`Letterbox::normalised_image`] into a buffer of `3 * size * size` values.
    pub fn normalised_image_into(&self, image: &RgbImage, pixels: &Normalisation, out: &mut [f32]) {
        let plane = self.size * self.size;
        let tables = pixels.levels();
        self.image_rows(image, pixels.border, |y, row| {
            for (channel, table) in tables.iter().enumerate() {
                let target = &mut out[channel * plane + y * self.size..][..self.size];
                let (before, rest) = target.split_at_mut(row.first);
                let (inner, behind) = rest.split_at_mut(row.pixels.len() / WIDE);
                let border = table[usize::from(pixels.border[channel])];
                before.fill(border);
                behind.fill(border);
                for (value, pixel) in inner.iter_mut().zip(row.pixels.chunks_exact(WIDE)) {
                    *value = table[usize::from(pixel[channel])];
                }
            }
        });
    }

    /// Calls `emit(y, row)` with every row of the letterboxed image.
    fn image_rows(&self, image: &RgbImage, border: [u8; 3], emit: impl FnMut(usize, Row<'_>)) {
        rows::bicubic_rgb(image, &Axes::of(&self.to_input, self.size), border, emit);
    }

    /// Warps a mask into the square, 0 to 255: bilinear, border 0. `size * size` bytes.
    pub fn mask(&self, mask: &Mask) -> Vec<u8> {
        let mut out = vec![0; self.size * self.size];
        self.mask_pixels(mask, |index, value| out[index] = value);
        out
    }

    /// [`Letterbox::mask`] divided by 255, into a buffer of `size * size` values.
    pub fn unit_mask_into(&self, mask: &Mask, out: &mut [f32]) {
        let table: Vec<f32> = (0..=255).map(|value| (f64::from(value) / 255.0) as f32).collect();
        out.fill(0.0);
        self.mask_pixels(mask, |index, value| out[index] = table[usize::from(value)]);
    }

    /// Calls `emit(index, value)` for every output pixel that the foreground reaches; all others are 0.
    fn mask_pixels(&self, mask: &Mask, mut emit: impl FnMut(usize, u8)) {
        let Some(bounds) = Bounds::of(mask) else { return };
        let weights = linear_weights();
        let axes = Axes::of(&self.to_input, self.size);
        let within = |places: &[Place], span: Span| -> Vec<(usize, Place)> {
            places.iter().copied().enumerate().filter(|(_, place)| span.touch(place.0)).collect()
        };
        let columns = within(&axes.columns, bounds.columns);
        // Two rows of the mask with a background pixel on either side, so that no tap lies outside.
        let mut taps = [0; 2].map(|_| vec![0; mask.width + 2]);
        for (y, (sy, fy)) in within(&axes.rows, bounds.rows) {
            for (row, sy) in taps.iter_mut().zip([sy, sy + 1]) {
                match usize::try_from(sy).ok().and_then(|sy| mask.data.chunks_exact(mask.width).nth(sy)) {
                    Some(pixels) => row[1..=mask.width].copy_from_slice(pixels),
                    None => row.fill(0),
                }
            }
            for &(x, (sx, fx)) in &columns {
                let weights = &weights[(fy * STEPS + fx) * 4..][..4];
                let at = (sx + 1) as usize;
                let pixels = [taps[0][at], taps[0][at + 1], taps[1][at], taps[1][at + 1]];
                let covered: i32 =
                    pixels.iter().zip(weights).map(|(&pixel, weight)| i32::from(pixel) * weight).sum();
                // Foreground is 1 in the mask and 255 in the result.
                emit(y * self.size + x, ((covered * 255 + (1 << 14)) >> 15).clamp(0, 255) as u8);
            }
        }
    }

    /// Warps a map over the square (`size * size` values) back to the original image, `height * width` values: bicubic, border
    /// 0. Values may leave the input's range a little, as bicubic interpolation does.
    pub fn map_to_image(&self, map: &[f32]) -> Vec<f32> {
        let weights = &cubic_weights().float;
        let places = Places::of(&self.to_image);
        // Zero padding on every side, wide enough for every tap of a pixel inside the image.
        const PAD: usize = 4;
        let stride = self.size + 2 * PAD;
        let mut padded = vec![0.0; stride * stride];
        for (y, row) in map.chunks_exact(self.size).enumerate() {
            padded[(y + PAD) * stride + PAD..][..self.size].copy_from_slice(row);
        }
        let first_tap = |at: i64| (at - 1).clamp(-(PAD as i64), self.size as i64) + PAD as i64;
        let mut out = vec![0.0; self.width * self.height];
        // Columns are processed in blocks: the source positions of an image a hundred million pixels wide would take gigabytes.
        const BLOCK: usize = 4096;
        for first in (0..self.width).step_by(BLOCK) {
            let end = self.width.min(first + BLOCK);
            let columns: Vec<Place> = (first..end).map(|x| places.column(x)).collect();
            for (y, target) in out.chunks_exact_mut(self.width).enumerate() {
                let (y, fy) = places.row(y);
                let top = first_tap(y) as usize * stride;
                let rows: [&[f32]; 4] = std::array::from_fn(|row| &padded[top + row * stride..][..stride]);
                let weights = &weights[fy * STEPS * 16..(fy + 1) * STEPS * 16];
                for (value, &(x, fx)) in target[first..end].iter_mut().zip(&columns) {
                    let left = first_tap(x) as usize;
                    let weights = &weights[fx * 16..][..16];
                    let mut sum = 0.0;
                    for (row, weights) in rows.iter().zip(weights.chunks_exact(4)) {
                        for (value, weight) in row[left..left + 4].iter().zip(weights) {
                            sum += weight * value;
                        }
                    }
                    *value = sum;
                }
            }
        }
        out
    }
}

/// Bounding box of a mask's foreground.
struct Bounds {
    columns: Span,
    rows: Span,
}

/// An inclusive range of pixels.
#[derive(Clone, Copy)]
struct Span(i64, i64);

impl Span {
    /// Whether pixel `at` or `at + 1` is in the range.
    fn touch(self, at: i64) -> bool {
        at >= self.0 - 1 && at <= self.1
    }
}

impl Bounds {
    /// `None` for an empty mask.
    fn of(mask: &Mask) -> Option<Self> {
        let mut bounds: Option<Self> = None;
        for (y, row) in mask.data.chunks_exact(mask.width.max(1)).enumerate() {
            let Some(first) = memchr::memchr(1, row) else { continue };
            let last = memchr::memrchr(1, row).unwrap_or(first);
            let (here, y) = (Span(first as i64, last as i64), y as i64);
            bounds = Some(match bounds {
                None => Self { columns: here, rows: Span(y, y) },
                Some(Self { columns, rows }) => Self {
                    columns: Span(columns.0.min(here.0), columns.1.max(here.1)),
                    rows: Span(rows.0, y),
                },
            });
        }
        bounds
    }
}

/// The share of every patch that a letterboxed mask covers, `side * side` values, row-major.
///
/// - levels: mask values, 0 to 255, `size * size` of them
/// - size: side of the mask in pixels, a multiple of `side`
/// - side: number of patches along a side
pub fn patch_shares(levels: &[u8], size: usize, side: usize) -> Vec<f32> {
    let patch = size / side;
    let mut shares = vec![0.0; side * side];
    for (y, row) in levels.chunks_exact(size).enumerate() {
        for (x, &level) in row.iter().enumerate() {
            shares[y / patch * side + x / patch] += f32::from(level);
        }
    }
    let full = 255.0 * (patch * patch) as f32;
    shares.into_iter().map(|share| share / full).collect()
}

/// The shares of every patch that the target covers, and that any distractor covers where the target does not.
///
/// - side: as in [`patch_shares`]
pub fn object_shares<'a>(
    letterbox: &Letterbox,
    target: &Mask,
    distractors: impl Iterator<Item = &'a Mask>,
    side: usize,
) -> [Vec<f32>; 2] {
    let mut others = Mask::zeros(target.width, target.height);
    for mask in distractors {
        others.unite(mask);
    }
    others.subtract(target);
    [target, &others].map(|mask| patch_shares(&letterbox.mask(mask), letterbox.size, side))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BORDER: [u8; 3] = Normalisation::CLIP.border;

    #[test]
    fn a_square_image_of_the_input_size_is_unchanged() {
        let data: Vec<u8> = (0..8 * 8 * 3).map(|value| (value * 37 % 256) as u8).collect();
        let image = RgbImage { width: 8, height: 8, data: data.clone() };
        assert_eq!(Letterbox::new(8, 8, 8).image(&image, BORDER), data);
    }

    #[test]
    fn a_wide_image_is_centred_with_a_mean_border() {
        let image = RgbImage { width: 8, height: 4, data: vec![200; 8 * 4 * 3] };
        let out = Letterbox::new(8, 4, 8).image(&image, BORDER);
        assert_eq!(out[..3], BORDER);
        assert_eq!(out[(4 * 8 + 4) * 3..][..3], [200; 3]);
        assert_eq!(out[7 * 8 * 3..][..3], BORDER);
    }

    #[test]
    fn masks_and_maps_go_there_and_back() {
        let mut mask = Mask::zeros(40, 20);
        for y in 5..15 {
            mask.data[y * 40 + 10..y * 40 + 30].fill(1);
        }
        let letterbox = Letterbox::new(40, 20, 80);
        let map: Vec<f32> = letterbox.mask(&mask).iter().map(|&value| f32::from(value) / 255.0).collect();
        let back = letterbox.map_to_image(&map);
        let wrong =
            back.iter().zip(&mask.data).filter(|(value, truth)| (**value > 0.5) != (**truth == 1)).count();
        assert!(wrong <= 60, "{wrong} of 800 pixels differ");
    }

    #[test]
    fn affine_matrices_match_the_reference() {
        let Affine(mat) = Letterbox::new(333, 500, 448).to_input;
        assert_eq!(mat, [[0.895_999_965_725_002_4, 0.0, 74.816_001_892_089_84], [0.0, 0.896, 0.0]]);
        let Affine(inv) = Letterbox::new(1, 1000, 448).to_image;
        assert!((inv[0][0] - 2.232_152_588_555_885_5).abs() < 1e-12);
        assert!((inv[0][2] + 499.502_179_836_518_4).abs() < 1e-9);
    }

    #[test]
    fn fixed_weights_add_up() {
        assert!(cubic_weights().fixed.chunks_exact(16).all(|table| table.iter().sum::<i32>() == 32768));
        assert!(linear_weights().chunks_exact(4).all(|table| table.iter().sum::<i32>() == 32768));
    }
}
