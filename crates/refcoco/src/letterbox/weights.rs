//! OpenCV's interpolation tables.

use std::sync::OnceLock;

/// Sub-pixel positions per pixel.
pub(super) const STEPS: usize = 32;

/// Bicubic weights for every pair of vertical and horizontal fractions, 16 each.
pub(super) struct CubicWeights {
    pub(super) float: Vec<f32>,
    /// The same weights in units of 1/32768.
    pub(super) fixed: Vec<i32>,
}

pub(super) fn cubic_weights() -> &'static CubicWeights {
    static WEIGHTS: OnceLock<CubicWeights> = OnceLock::new();
    WEIGHTS.get_or_init(|| {
        const A: f32 = -0.75;
        let taps: Vec<[f32; 4]> = (0..STEPS)
            .map(|step| {
                let x = step as f32 / STEPS as f32;
                let far = ((A * (x + 1.0) - 5.0 * A) * (x + 1.0) + 8.0 * A) * (x + 1.0) - 4.0 * A;
                let near = ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
                let next = ((A + 2.0) * (1.0 - x) - (A + 3.0)) * (1.0 - x) * (1.0 - x) + 1.0;
                [far, near, next, 1.0 - far - near - next]
            })
            .collect();
        let float = products(&taps);
        let fixed = fixed_point::<4>(&float);
        CubicWeights { float, fixed }
    })
}

/// Bilinear weights for every pair of fractions, 4 each, in units of 1/32768.
pub(super) fn linear_weights() -> &'static [i32] {
    static WEIGHTS: OnceLock<Vec<i32>> = OnceLock::new();
    WEIGHTS.get_or_init(|| {
        let taps: Vec<[f32; 2]> =
            (0..STEPS).map(|step| step as f32 / STEPS as f32).map(|x| [1.0 - x, x]).collect();
        fixed_point::<2>(&products(&taps))
    })
}

/// The K x K weights for every pair of vertical and horizontal fractions.
fn products<const K: usize>(taps: &[[f32; K]]) -> Vec<f32> {
    let mut table = Vec::with_capacity(STEPS * STEPS * K * K);
    for vertical in taps {
        for horizontal in taps {
            table.extend(vertical.iter().flat_map(|v| horizontal.iter().map(move |h| v * h)));
        }
    }
    table
}

/// Converts weights to units of 1/32768 that add up exactly: the rounding error goes to one of the central entries.
fn fixed_point<const K: usize>(float: &[f32]) -> Vec<i32> {
    let mut fixed: Vec<i32> =
        float.iter().map(|weight| (weight * 32768.0).round_ties_even() as i32).collect();
    for table in fixed.chunks_exact_mut(K * K) {
        let excess = table.iter().sum::<i32>() - 32768;
        let centre = K / 2..(K / 2 + 2).min(K);
        let entries = centre.clone().flat_map(|row| centre.clone().map(move |column| row * K + column));
        let mut chosen = K / 2 * K + K / 2;
        for entry in entries {
            let better = if excess < 0 { table[entry] > table[chosen] } else { table[entry] < table[chosen] };
            if better {
                chosen = entry;
            }
        }
        table[chosen] -= excess;
    }
    fixed
}
