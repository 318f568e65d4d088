//! Source positions of output pixels, and the bicubic warp of images, row by row without bounds checks per pixel.
//!
//! A letterbox only scales and shifts. The source column and horizontal fraction therefore depend on the output column alone,
//! and likewise for rows.

use std::sync::OnceLock;

use multiversion::multiversion;

use super::Affine;
use super::weights::{STEPS, cubic_weights};
use crate::image_file::RgbImage;

/// Source position of an output coordinate: pixel, and fraction in units of 1/32.
pub(super) type Place = (i64, usize);

/// Source positions of output columns and rows: scale and shift per axis.
pub(super) struct Places([[f64; 2]; 2]);

impl Places {
    /// Source positions of a map without rotation and shear.
    pub(super) fn of(map: &Affine) -> Self {
        let [[m00, m01, m02], [m10, m11, m12]] = map.inverse().0;
        debug_assert!(m01 == 0.0 && m10 == 0.0, "a letterbox only scales and shifts");
        Self([[m00, m02], [m11, m12]])
    }

    pub(super) fn column(&self, x: usize) -> Place {
        let [scale, shift] = self.0[0];
        // OpenCV rounds scale and shift separately for columns, and their sum for rows.
        place(fixed(shift) + fixed(scale * x as f64))
    }

    pub(super) fn row(&self, y: usize) -> Place {
        let [scale, shift] = self.0[1];
        place(fixed(scale * y as f64 + shift))
    }
}

/// Rounds to units of 1/1024.
fn fixed(value: f64) -> i64 {
    (value * 1024.0).round_ties_even() as i64
}

/// Rounds from units of 1/1024 to units of 1/32.
fn place(at: i64) -> Place {
    let at = (at + 16) >> 5;
    (at >> 5, (at & 31) as usize)
}

/// Source positions of all columns and rows of the square.
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

/// Pixels of border colour on either side of a padded row, enough for all taps.
const PAD: usize = 4;
/// Values stored per pixel: R, G, B and one unused, so that four taps fill a vector register.
pub(super) const WIDE: usize = 4;
/// Values of four consecutive taps.
const LANES: usize = 4 * WIDE;

/// Weights of the 4 x 4 taps for each pair of fractions, each repeated [`WIDE`] times.
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

/// Which pixels of a source row are copied, and their layout in memory.
enum RowLayout {
    /// All pixels, with padding on either side.
    All,
    /// Only the four taps of each output column, starting at these source columns. Used where the image is much wider than the
    /// square: of a row of a hundred million pixels, only the taps of 448 columns are copied.
    Taps(Vec<i64>),
}

impl RowLayout {
    fn of(width: usize, first_taps: &[i64]) -> Self {
        match width > 4 * first_taps.len() {
            true => Self::Taps(first_taps.to_vec()),
            false => Self::All,
        }
    }

    /// Number of pixels stored per row.
    fn len(&self, width: usize) -> usize {
        match self {
            Self::All => width + 2 * PAD,
            Self::Taps(columns) => 4 * columns.len(),
        }
    }

    /// Byte offset of an output column's first tap in a stored row.
    ///
    /// - number: index of the output column
    /// - first: source column of its first tap
    fn start(&self, number: usize, first: i64) -> usize {
        match self {
            Self::All => (first + PAD as i64) as usize * WIDE,
            Self::Taps(_) => number * LANES,
        }
    }

    /// Copies a source row of three bytes per pixel. Values outside of it are not changed.
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

/// Four consecutive source rows with [`WIDE`] values per pixel. They fit into the L1 cache; a padded copy of the whole image
/// would not.
struct Window<'a> {
    image: &'a RgbImage,
    layout: RowLayout,
    /// Row number and values of each row, at index row number modulo 4.
    slots: [(i64, Vec<u8>); 4],
    /// A row of border colour, for rows above and below the image.
    outside: Vec<u8>,
}

impl<'a> Window<'a> {
    fn new(image: &'a RgbImage, layout: RowLayout, border: [u8; 3]) -> Self {
        let outside = [border[0], border[1], border[2], 0].repeat(layout.len(image.width));
        Self { image, layout, slots: [0; 4].map(|_| (-1, outside.clone())), outside }
    }

    /// Returns rows `first` to `first + 3`.
    fn rows(&mut self, first: i64) -> [&[u8]; 4] {
        let numbers = [first, first + 1, first + 2, first + 3];
        let inside = |row: i64| row >= 0 && row < self.image.height as i64;
        for row in numbers.into_iter().filter(|&row| inside(row)) {
            let (held, slot) = &mut self.slots[row as usize % 4];
            if *held != row {
                *held = row;
                let bytes = self.image.width * 3;
                let source = &self.image.data[row as usize * bytes..][..bytes];
                self.layout.copy(source, slot);
            }
        }
        numbers.map(|row| match inside(row) {
            true => self.slots[row as usize % 4].1.as_slice(),
            false => self.outside.as_slice(),
        })
    }
}

/// One row of the warped image: pixels from column `first` on, with [`WIDE`] values each. The fourth value is unused. The
/// columns before and after have the border colour.
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
    // Columns whose taps all lie outside keep the border colour. They are at both ends of a row.
    let reaches = |place: &Place, n: usize| place.0 + 2 >= 0 && place.0 - 1 < n as i64;
    let first = axes.columns.iter().position(|place| reaches(place, width));
    let first = first.unwrap_or(axes.columns.len());
    let inner: Vec<&Place> = axes.columns[first..].iter().take_while(|place| reaches(place, width)).collect();
    let first_taps: Vec<i64> = inner.iter().map(|place| place.0 - 1).collect();
    let mut window = Window::new(image, RowLayout::of(width, &first_taps), border);
    let inner: Vec<(usize, usize)> =
        (0..).zip(inner).map(|(number, place)| (window.layout.start(number, place.0 - 1), place.1)).collect();
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

/// Computes one output row: for every column the weighted sum of 4 x 4 taps.
///
/// - taps: the four source rows
/// - columns: byte offset of the first tap in each row, and horizontal fraction
/// - weights: tap weights by horizontal fraction
/// - out: [`WIDE`] values per column; the fourth is computed only to keep the lanes uniform
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
        // The taps of the first column start before the row, and those of the last end after it.
        let firsts = [-2, 3, 7];
        let border = [200, 201, 202, 0];
        let [all, taps] = [RowLayout::All, RowLayout::Taps(firsts.to_vec())].map(|layout| {
            let mut row = border.repeat(layout.len(9));
            layout.copy(&source, &mut row);
            let starts = (0..).zip(firsts).map(|(number, first)| layout.start(number, first));
            starts.flat_map(|at| row[at..at + LANES].to_vec()).collect::<Vec<u8>>()
        });
        assert_eq!(all, taps);
        assert!(
            matches!(RowLayout::of(13, &firsts), RowLayout::Taps(_))
                && matches!(RowLayout::of(12, &firsts), RowLayout::All)
        );
    }
}
