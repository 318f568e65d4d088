//! Measures non-target activation from the probability maps of any program, over a set of expressions.
//! `cargo run --release --package metrics --example nta_of_own_masks`
#![allow(clippy::print_stdout, missing_docs)]

use metrics::{Activation, METRICS, NtaMetrics, SegmentationMetrics};

const SIDE: usize = 32;

/// A mask of a disc.
fn disc(x: f64, y: f64, radius: f64) -> Vec<u8> {
    let inside = |i: usize| ((i % SIDE) as f64 - x).hypot((i / SIDE) as f64 - y) <= radius;
    (0..SIDE * SIDE).map(|i| u8::from(inside(i))).collect()
}

/// Probability map of a model: high on the target, and `leak` on another object of its category.
fn answer(target: &[u8], other: &[u8], leak: f32) -> Vec<f32> {
    target.iter().zip(other).map(|(&t, &o)| (0.9 * f32::from(t)).max(leak * f32::from(o)) + 0.01).collect()
}

fn main() {
    // One entry per expression: probabilities and masks at the image's own resolution.
    let measured: Vec<Activation> = (0..10)
        .map(|i| {
            let (target, other) = (disc(8.0, 8.0 + f64::from(i), 5.0), disc(23.0, 16.0, 5.0));
            let probabilities = answer(&target, &other, 0.08 * i as f32);
            Activation::of_probabilities(&probabilities, 0.35, &target, &[&other])
        })
        .collect();
    let nta = NtaMetrics::from_activations(&measured);
    let overlaps: Vec<_> = measured.iter().map(|activation| activation.overlap).collect();
    let segmentation = SegmentationMetrics::from_overlaps(&overlaps);
    println!("mIoU {:.1}, oIoU {:.1}", segmentation.miou, segmentation.oiou);
    println!("{nta:?}");
    println!("in tables: {}", METRICS.iter().map(|metric| metric.heading).collect::<Vec<_>>().join(", "));
}
