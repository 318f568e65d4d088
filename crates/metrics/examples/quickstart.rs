//! Scores two predicted masks. `cargo run --release --package metrics --example quickstart`
#![allow(clippy::print_stdout, missing_docs)]

use metrics::{Activation, SegmentationMetrics};

/// A mask of 8 x 8 pixels whose foreground is a rectangle.
fn rectangle(columns: std::ops::Range<usize>, rows: std::ops::Range<usize>) -> Vec<u8> {
    (0..64).map(|i| u8::from(columns.contains(&(i % 8)) && rows.contains(&(i / 8)))).collect()
}

fn main() {
    let (left_zebra, right_zebra) = (rectangle(0..3, 2..6), rectangle(5..8, 2..6));
    // "left zebra": correct, but it also covers a third of the right zebra.
    let prediction: Vec<u8> =
        left_zebra.iter().zip(rectangle(5..6, 2..6)).map(|(&one, other)| one | other).collect();
    let first = Activation::of_mask(&prediction, &left_zebra, &[&right_zebra]);
    // "right zebra": the prediction is the wrong zebra.
    let second = Activation::of_mask(&left_zebra, &right_zebra, &[&left_zebra]);

    let metrics = SegmentationMetrics::from_overlaps(&[first.overlap, second.overlap]);
    println!("metrics: 2 expressions, mIoU {:.1}, oIoU {:.1}", metrics.miou, metrics.oiou);
    for (name, activation) in [("left zebra", first), ("right zebra", second)] {
        println!(
            "{name}: IoU {:.2}, NTA mass {:.2}, identity error {}",
            activation.overlap.iou(),
            activation.nta_mass().unwrap_or(f64::NAN),
            activation.is_identity_error()
        );
    }
}
