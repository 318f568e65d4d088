//! Where target pixels lie in the source, and the bicubic warp of pictures, row by row without bounds checks per pixel.
//!
//! A letterbox only scales and shifts, so source column and horizontal fraction depend on the target column alone, and
//! likewise for rows.

use std::sync::OnceLock;

use multiversion::multiversion;

use super::Affine;
use super::weights::{STEPS, cubic_weights};
use crate::image_file::RgbImage;

/// Where a target coordinate lies in the source: pixel, and fraction in 1/32.
pub(super) type Place = (i64, usize);

/// The places of all target columns and rows.
pub(super) struct Axes {
    pub(super) columns: Vec<Place>,
    pub(super) rows: Vec<Place>,
}

impl Axes {
    /// The axes of a map that neither turns nor shears, for a target of this size.
    pub(super) fn of(map: &Affine, width: usize, height: usize) -> Self {
        let [[m00, m01, m02], [m10, m11, m12]] = map.inverse().0;
        debug_assert!(m01 == 0.0 && m10 == 0.0, "a letterbox only scales and shifts");
        let fixed = |value: f64| (value * 1024.0).round_ties_even() as i64;
        let place = |at: i64| {
            let at = at >> 5;
            (at >> 5, (at & 31) as usize)
        };
        let x0 = fixed(m02) + 16;
        Self {
            columns: (0..width).map(|x| place(x0 + fixed(m00 * x as f64))).collect(),
            rows: (0..height).map(|y| place(fixed(m11 * y as f64 + m12) + 16)).collect(),
        }
    }
}

/// Pixels of border colour on either side of a padded row: as many as taps can reach.
const PAD: usize = 4;
/// Values of a pixel: R, G, B and one that is carried along, so that four taps fill a vector register.
pub(super) const WIDE: usize = 4;
/// Values of four taps in a row.
const LANES: usize = 4 * WIDE;

/// Per pair of fractions, the 4 x 4 taps' weights, each [`WIDE`] times.
fn spread_weights() -> &'static [[[i32; LANES]; 4]] {
    static WEIGHTS: OnceLock<Vec<[[i32; LANES]; 4]>> = OnceLock::new();
    WEIGHTS.get_or_init(|| {
        let spread = cubic_weights().fixed.chunks_exact(16).map(|table| {
            let mut wide = [[0; LANES]; 4];
            for (tap, weight) in table.iter().enumerate() {
                wide[tap / 4][tap % 4 * WIDE..][..WIDE].fill(*weight);
            }
            wide
        });
        spread.collect()
    })
}

/// Four consecutive source rows, padded on both sides and widened to [`WIDE`] values a pixel. Small enough to stay in
/// the first cache, which a padded copy of the whole image would not.
struct Window<'a> {
    image: &'a RgbImage,
    /// The rows, each in the place of its number modulo 4, and which rows these are.
    slots: [(i64, Vec<u8>); 4],
    /// What lies above and below the image.
    outside: Vec<u8>,
}

impl<'a> Window<'a> {
    fn new(image: &'a RgbImage, border: [u8; 3]) -> Self {
        let outside = [border[0], border[1], border[2], 0].repeat(image.width + 2 * PAD);
        Self { image, slots: [0; 4].map(|_| (-1, outside.clone())), outside }
    }

    /// Rows `first` to `first + 3`.
    fn rows(&mut self, first: i64) -> [&[u8]; 4] {
        let numbers = [first, first + 1, first + 2, first + 3];
        let inside = |row: i64| row >= 0 && row < self.image.height as i64;
        for row in numbers.into_iter().filter(|&row| inside(row)) {
            let (held, slot) = &mut self.slots[row as usize % 4];
            if *held != row {
                *held = row;
                let bytes = self.image.width * 3;
                let source = &self.image.data[row as usize * bytes..][..bytes];
                // The padding in front and behind stays as it is.
                let target = slot[PAD * WIDE..].chunks_exact_mut(WIDE);
                for (wide, pixel) in target.zip(source.chunks_exact(3)) {
                    wide[..3].copy_from_slice(pixel);
                }
            }
        }
        numbers.map(|row| match inside(row) {
            true => self.slots[row as usize % 4].1.as_slice(),
            false => self.outside.as_slice(),
        })
    }
}

/// One row of the warped image: from `first` on [`WIDE`] values a pixel, of which the fourth means nothing; border colour
/// before and behind them.
pub(super) struct Row<'a> {
    pub(super) first: usize,
    pub(super) pixels: &'a [u8],
}

/// Calls `emit(y, row)` with every row of the warped image.
pub(super) fn bicubic_rgb(
    image: &RgbImage,
    axes: &Axes,
    border: [u8; 3],
    mut emit: impl FnMut(usize, Row<'_>),
) {
    let (width, height) = (image.width, image.height);
    let mut window = Window::new(image, border);

    // Columns whose taps all lie outside keep the border colour; they stand at both ends.
    let reaches = |place: &Place, n: usize| place.0 + 2 >= 0 && place.0 - 1 < n as i64;
    let first = axes.columns.iter().position(|place| reaches(place, width));
    let first = first.unwrap_or(axes.columns.len());
    let inner: Vec<(usize, usize)> = axes.columns[first..]
        .iter()
        .take_while(|place| reaches(place, width))
        .map(|&(x, fraction)| ((x - 1 + PAD as i64) as usize * WIDE, fraction))
        .collect();
    let mut mixed = vec![0; inner.len() * WIDE];
    let weights = spread_weights();
    for (y, place) in axes.rows.iter().enumerate() {
        if !reaches(place, height) {
            emit(y, Row { first: axes.columns.len(), pixels: &[] });
            continue;
        }
        let taps = window.rows(place.0 - 1);
        let weights = &weights[place.1 * STEPS..(place.1 + 1) * STEPS];
        mix_row(taps, &inner, weights, &mut mixed);
        emit(y, Row { first, pixels: &mixed });
    }
}

/// One row of output values: for every column the weighted sum of 4 x 4 taps.
///
/// - taps: the four source rows; columns: first byte of the taps in each row, and fraction; weights: by fraction
/// - out: [`WIDE`] values a column; the fourth is worked out like the others only to keep the lanes even
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2", "aarch64+neon"))]
fn mix_row(taps: [&[u8]; 4], columns: &[(usize, usize)], weights: &[[[i32; LANES]; 4]], out: &mut [u8]) {
    for (pixel, &(at, fraction)) in out.chunks_exact_mut(WIDE).zip(columns) {
        let mut sums = [0_i32; LANES];
        for (row, weights) in taps.iter().zip(&weights[fraction]) {
            let Some(values) = row[at..].first_chunk::<LANES>() else { continue };
            for lane in 0..LANES {
                sums[lane] += i32::from(values[lane]) * weights[lane];
            }
        }
        let mut mixed = [0_u8; WIDE];
        for lane in 0..WIDE {
            let sum = sums[lane] + sums[lane + WIDE] + sums[lane + 2 * WIDE] + sums[lane + 3 * WIDE];
            mixed[lane] = ((sum + (1 << 14)) >> 15).clamp(0, 255) as u8;
        }
        pixel.copy_from_slice(&mixed);
    }
}
