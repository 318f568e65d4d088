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

/// The place of each target column and row.
pub(super) struct Places([[f64; 2]; 2]);

impl Places {
    /// Those of a map that neither turns nor shears.
    pub(super) fn of(map: &Affine) -> Self {
        let [[m00, m01, m02], [m10, m11, m12]] = map.inverse().0;
        debug_assert!(m01 == 0.0 && m10 == 0.0, "a letterbox only scales and shifts");
        Self([[m00, m02], [m11, m12]])
    }

    pub(super) fn column(&self, x: usize) -> Place {
        let [scale, shift] = self.0[0];
        // OpenCV rounds scale and shift of columns apart, and of rows together.
        place(fixed(shift) + fixed(scale * x as f64))
    }

    pub(super) fn row(&self, y: usize) -> Place {
        let [scale, shift] = self.0[1];
        place(fixed(scale * y as f64 + shift))
    }
}

/// In units of 1/1024.
fn fixed(value: f64) -> i64 {
    (value * 1024.0).round_ties_even() as i64
}

/// Rounds to 1/32.
fn place(at: i64) -> Place {
    let at = (at + 16) >> 5;
    (at >> 5, (at & 31) as usize)
}

/// The places of all columns and rows of a square the network sees.
pub(super) struct Axes {
    pub(super) columns: Vec<Place>,
    pub(super) rows: Vec<Place>,
}

impl Axes {
    pub(super) fn of(map: &Affine, size: usize) -> Self {
        let places = Places::of(map);
        Self {
            columns: (0..size).map(|x| places.column(x)).collect(),
            rows: (0..size).map(|y| places.row(y)).collect(),
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

/// Which pixels of a source row are kept, and how a row of them lies in memory.
enum Kept {
    /// All, with padding on either side.
    All,
    /// Four a target column, from this source column on: fewer, where the image is much wider than the square. A row of a
    /// hundred million pixels is not copied for the 448 places that are looked at.
    Taps(Vec<i64>),
}

impl Kept {
    fn of(width: usize, first_taps: &[i64]) -> Self {
        match width > 4 * first_taps.len() {
            true => Self::Taps(first_taps.to_vec()),
            false => Self::All,
        }
    }

    /// Pixels of a row.
    fn len(&self, width: usize) -> usize {
        match self {
            Self::All => width + 2 * PAD,
            Self::Taps(columns) => 4 * columns.len(),
        }
    }

    /// Where a target column's four taps begin in a row, in bytes.
    ///
    /// - number: of the target column; first: source column of its first tap
    fn start(&self, number: usize, first: i64) -> usize {
        match self {
            Self::All => (first + PAD as i64) as usize * WIDE,
            Self::Taps(_) => number * LANES,
        }
    }

    /// Copies a source row of three bytes a pixel. What lies outside of it stays as it is.
    fn copy(&self, source: &[u8], target: &mut [u8]) {
        match self {
            Self::All => {
                let target = target[PAD * WIDE..].chunks_exact_mut(WIDE);
                for (wide, pixel) in target.zip(source.chunks_exact(3)) {
                    wide[..3].copy_from_slice(pixel);
                }
            }
            Self::Taps(columns) => {
                for (wide, &first) in target.chunks_exact_mut(LANES).zip(columns) {
                    for (tap, wide) in (first..).zip(wide.chunks_exact_mut(WIDE)) {
                        let pixel =
                            usize::try_from(tap).ok().and_then(|tap| source.get(tap * 3..tap * 3 + 3));
                        if let Some(pixel) = pixel {
                            wide[..3].copy_from_slice(pixel);
                        }
                    }
                }
            }
        }
    }
}

/// Four consecutive source rows, widened to [`WIDE`] values a pixel. Small enough to stay in the first cache, which a padded
/// copy of the whole image would not.
struct Window<'a> {
    image: &'a RgbImage,
    kept: Kept,
    /// The rows, each in the place of its number modulo 4, and which rows these are.
    slots: [(i64, Vec<u8>); 4],
    /// What lies above and below the image.
    outside: Vec<u8>,
}

impl<'a> Window<'a> {
    fn new(image: &'a RgbImage, kept: Kept, border: [u8; 3]) -> Self {
        let outside = [border[0], border[1], border[2], 0].repeat(kept.len(image.width));
        Self { image, kept, slots: [0; 4].map(|_| (-1, outside.clone())), outside }
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
                self.kept.copy(source, slot);
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
    // Columns whose taps all lie outside keep the border colour; they stand at both ends.
    let reaches = |place: &Place, n: usize| place.0 + 2 >= 0 && place.0 - 1 < n as i64;
    let first = axes.columns.iter().position(|place| reaches(place, width));
    let first = first.unwrap_or(axes.columns.len());
    let inner: Vec<&Place> = axes.columns[first..].iter().take_while(|place| reaches(place, width)).collect();
    let first_taps: Vec<i64> = inner.iter().map(|place| place.0 - 1).collect();
    let mut window = Window::new(image, Kept::of(width, &first_taps), border);
    let inner: Vec<(usize, usize)> =
        (0..).zip(inner).map(|(number, place)| (window.kept.start(number, place.0 - 1), place.1)).collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taps_alone_hold_what_whole_rows_hold() {
        let source: Vec<u8> = (0..9 * 3).collect();
        // The taps of the first column begin before the row, and those of the last end behind it.
        let firsts = [-2, 3, 7];
        let border = [200, 201, 202, 0];
        let [all, taps] = [Kept::All, Kept::Taps(firsts.to_vec())].map(|kept| {
            let mut row = border.repeat(kept.len(9));
            kept.copy(&source, &mut row);
            let starts = (0..).zip(firsts).map(|(number, first)| kept.start(number, first));
            starts.flat_map(|at| row[at..at + LANES].to_vec()).collect::<Vec<u8>>()
        });
        assert_eq!(all, taps);
        assert!(matches!(Kept::of(13, &firsts), Kept::Taps(_)) && matches!(Kept::of(12, &firsts), Kept::All));
    }
}
