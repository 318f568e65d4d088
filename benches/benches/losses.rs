//! Losses at the base model's shapes: `cargo bench --package talent-benches --bench losses`.
#![allow(missing_docs)]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use tch::{Device, Kind, Tensor};
use tlm_losses::{Cpcl, Segmentation};

// The allocator of the `talent` program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PLACE: (Kind, Device) = (Kind::Float, Device::Cpu);

fn consistency(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("cpcl, one level, forward and backward");
    group.sample_size(10);
    for (name, n, channels, side) in [("base, batch 4", 4, 512, 32), ("tiny, batch 32", 32, 96, 8)] {
        tch::manual_seed(0);
        let features = Tensor::randn([n, channels, side, side], PLACE).relu().set_requires_grad(true);
        let sentence = Tensor::randn([n, channels], PLACE) * 0.3;
        group.bench_function(BenchmarkId::from_parameter(name), |bench| {
            bench.iter(|| {
                let loss = Cpcl::default().loss(&features, &sentence).loss;
                if loss.requires_grad() {
                    loss.backward();
                }
            });
        });
    }
    group.finish();
}

fn segmentation(criterion: &mut Criterion) {
    tch::manual_seed(0);
    let logits = Tensor::randn([4, 1, 128, 128], PLACE).set_requires_grad(true);
    let target = Tensor::rand([4, 1, 448, 448], PLACE);
    criterion.bench_function("segmentation loss, base, batch 4, forward and backward", |bench| {
        bench.iter(|| Segmentation::default().loss(&logits, &target).total().backward());
    });
}

criterion_group!(benches, consistency, segmentation);
criterion_main!(benches);
