//! Stages of the data pipeline, on one thread: `cargo bench --package talent-benches --bench data_pipeline`.
#![allow(missing_docs)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use refcoco::letterbox::{Letterbox, Normalisation};
use refcoco::{ClipTokenizer, Mask, RgbImage, Tokenizer};

/// A COCO-sized image of noise.
fn image() -> RgbImage {
    let data =
        (0..640 * 480 * 3_u64).map(|index| (index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    RgbImage { width: 640, height: 480, data }
}

fn stages(criterion: &mut Criterion) {
    let (image, letterbox) = (image(), Letterbox::new(640, 480, 448));
    let polygon = vec![100.0, 80.0, 420.5, 90.25, 500.0, 300.0, 300.0, 410.0, 120.0, 333.3];
    let mask = Mask::from_polygons(640, 480, std::slice::from_ref(&polygon))
        .unwrap_or_else(|error| panic!("{error}"));
    let tokenizer = ClipTokenizer::new().unwrap_or_else(|error| panic!("{error}"));

    let mut group = criterion.benchmark_group("640x480 to 448");
    group.throughput(Throughput::Elements(1));
    group.bench_function("letterbox image, bicubic", |bench| {
        bench.iter(|| letterbox.image(black_box(&image), Normalisation::CLIP.border))
    });
    group.bench_function("letterbox and normalise", |bench| {
        bench.iter(|| letterbox.normalised_image(black_box(&image), &Normalisation::CLIP))
    });
    group.bench_function("rasterise polygon", |bench| {
        bench.iter(|| Mask::from_polygons(640, 480, black_box(std::slice::from_ref(&polygon))));
    });
    group.bench_function("letterbox mask, bilinear", |bench| bench.iter(|| letterbox.mask(black_box(&mask))));
    let map = letterbox.mask(&mask).into_iter().map(|level| f32::from(level) / 255.0).collect::<Vec<_>>();
    group.bench_function("evaluation: map back to the image, bicubic", |bench| {
        bench.iter(|| letterbox.map_to_image(black_box(&map)));
    });
    let back = letterbox.map_to_image(&map);
    group.bench_function("evaluation: threshold and IoU", |bench| {
        bench.iter(|| metrics::Overlap::of_probabilities(black_box(&back), 0.35, &mask.data));
    });
    group.bench_function("evaluation: non-target activation, two distractors", |bench| {
        let distractors = [mask.data.as_slice(); 2];
        bench
            .iter(|| metrics::Activation::of_probabilities(black_box(&back), 0.35, &mask.data, &distractors));
    });
    group.bench_function("tokenise", |bench| {
        bench.iter(|| tokenizer.encode_padded(black_box("second zebra from the right, facing us"), 17));
    });
    group.finish();
}

criterion_group!(benches, stages);
criterion_main!(benches);
