//! Regression test: letterbox warps of noise, compared byte for byte by fingerprint. That these bytes agree with OpenCV 4 was
//! shown on recorded photos, which are not part of the project (`talent parity --data-root`).

use refcoco::letterbox::{Letterbox, Normalisation};
use refcoco::{Mask, RgbImage};

/// SplitMix64.
struct Noise(u64);

impl Iterator for Noise {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        Some(z ^ (z >> 31))
    }
}

/// FNV-1a.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xCBF2_9CE4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

/// Width, height, side of the square, fingerprints of image and mask.
const EXPECTED: [(usize, usize, usize, u64, u64); 6] = [
    (64, 48, 112, 0x2BBC_F843_41DF_B950, 0x0C5A_4D5D_64E1_3C13),
    (37, 91, 112, 0x8636_E6AC_CA4C_55C2, 0xAE32_35AD_6DC2_813A),
    (333, 500, 448, 0xAC2F_4433_FC6D_B98F, 0xC55C_A981_3960_2738),
    (500, 333, 224, 0x1ADC_7744_4044_EFAB, 0x448B_695D_5F9B_AF75),
    (1, 9, 32, 0x4A1B_DFF7_F17C_0142, 0xE0ED_6FB1_FE1C_9936),
    (112, 112, 112, 0x692D_869F_148A_CE20, 0x754B_E4F0_D5DA_AA2B),
];

#[test]
fn noise_is_warped_to_the_last_bit() {
    let found = EXPECTED.map(|(width, height, side, ..)| {
        let mut noise = Noise((width * 1000 + height) as u64);
        let data = noise.by_ref().take(width * height * 3).map(|z| (z >> 56) as u8).collect();
        let mask = noise.take(width * height).map(|z| (z >> 63) as u8).collect();
        let letterbox = Letterbox::new(width, height, side);
        let picture = letterbox.image(&RgbImage { width, height, data }, Normalisation::CLIP.border);
        let mask = letterbox.mask(&Mask { width, height, data: mask });
        (width, height, side, fingerprint(&picture), fingerprint(&mask))
    });
    assert_eq!(found, EXPECTED, "{found:#x?}");
}

/// Recomputes output values of the bicubic warp from their sixteen taps, without the optimisations.
#[test]
fn a_pixel_by_the_recipe() {
    let (width, height, side) = (37, 91, 112);
    let data: Vec<u8> = Noise(3).take(width * height * 3).map(|z| (z >> 56) as u8).collect();
    let letterbox = Letterbox::new(width, height, side);
    let warped = letterbox.image(&RgbImage { width, height, data: data.clone() }, Normalisation::CLIP.border);
    let [[a, b, c], [d, e, f]] = letterbox.to_input.0;
    assert_eq!((b, d), (0.0, 0.0));
    let round = |value: f64| value.round_ties_even() as i64;
    for (x, y) in [(40, 3), (56, 56), (71, 108)] {
        let place = |scale: f64, offset: f64, at: usize| {
            let fixed = round(at as f64 / scale * 1024.0) + round(-offset / scale * 1024.0) + 16;
            (fixed >> 10, ((fixed >> 5) & 31) as f32 / 32.0)
        };
        let ((sx, fx), (sy, fy)) = (place(a, c, x), place(e, f, y));
        let cubic = |t: f32| {
            let near = |x: f32| ((-0.75 + 2.0) * x - (-0.75 + 3.0)) * x * x + 1.0;
            let far = |x: f32| ((-0.75 * x - 5.0 * -0.75) * x + 8.0 * -0.75) * x - 4.0 * -0.75;
            let weights = [far(t + 1.0), near(t), near(1.0 - t)];
            [weights[0], weights[1], weights[2], 1.0 - weights[0] - weights[1] - weights[2]]
        };
        let (wx, wy) = (cubic(fx), cubic(fy));
        let mut sum = 0.0;
        for (row, wy) in wy.iter().enumerate() {
            for (column, wx) in wx.iter().enumerate() {
                let (x, y) = (sx - 1 + column as i64, sy - 1 + row as i64);
                let inside = (0..width as i64).contains(&x) && (0..height as i64).contains(&y);
                let value = if inside { data[(y as usize * width + x as usize) * 3] } else { 123 };
                sum += f64::from(wy * wx) * f64::from(value);
            }
        }
        // The weights are rounded to 1/32768, which can change the rounded result by one.
        let found = f64::from(warped[(y * side + x) * 3]);
        assert!((found - sum.clamp(0.0, 255.0)).abs() <= 0.6, "{x}, {y}: {found} is not {sum}");
    }
}
