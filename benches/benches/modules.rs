//! Modules at the base model's shapes, one image of 448 pixels: `cargo bench --package talent-benches --bench modules`.
//! Linear layers and attention are also measured with libtorch's own functions.
#![allow(missing_docs)]

use backbone::{Grid, unobserved};
use criterion::{Criterion, criterion_group, criterion_main};
use talent::{Mode, ModelConfig, Talent};
use tch::{Device, Kind, Tensor};
use torch_ext::Autocast;
use torch_ext::layers::{attention, linear};

// The allocator of the `talent` program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PLACE: (Kind, Device) = (Kind::Float, Device::Cpu);

/// The base model with two blocks per encoder, the second with an adapter.
fn model() -> Talent {
    let mut cfg = ModelConfig::base();
    (cfg.image.depth, cfg.image.taps, cfg.image.adapter_blocks) = (2, [0, 1], vec![1]);
    (cfg.text.depth, cfg.text.adapter_blocks) = (2, vec![1]);
    Talent::seeded(&cfg, Device::Cpu, Kind::Float, 0).unwrap_or_else(|error| panic!("{error}"))
}

/// Measures `work` without gradients, in fp32 and under bf16 autocast.
fn forward(criterion: &mut Criterion, name: &str, work: impl Fn() -> Tensor) {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(20);
    for (precision, kind) in [("fp32", Kind::Float), ("bf16", Kind::BFloat16)] {
        group.bench_function(precision, |bench| {
            let _guard = Autocast::enable(Device::Cpu, kind).unwrap_or_else(|error| panic!("{error}"));
            bench.iter(|| tch::no_grad(&work));
        });
    }
    group.finish();
}

fn modules(criterion: &mut Criterion) {
    let model = model();
    let random = |size: &[i64]| Tensor::randn(size, PLACE);
    let (tokens, words, state) = (random(&[1, 1029, 768]), random(&[1, 17, 512]), random(&[1, 512]));
    let (map, taps) = (random(&[1, 512, 32, 32]), [0, 1, 2].map(|_| random(&[1, 768, 32, 32])));
    let ids = Tensor::from_slice(&[49406, 320, 1929, 49407, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0_i64])
        .view([1, 17]);
    let (image, adapters) = (model.image(), model.visual_adapters());
    let guest = adapters.guest(&words, None, Mode::Eval, &|_, _| {});
    let grid = Grid::square(model.config().grid());
    forward(criterion, "image block", || image.block(0, &tokens, grid, &guest));
    forward(criterion, "image block with adapter", || image.block(1, &tokens, grid, &guest));
    if let Some(adapter) = adapters.get(1) {
        let patches = random(&[1, 1024, 128]);
        forward(criterion, "visual adapter", || adapter.forward(&tokens, &words, Mode::Eval));
        forward(criterion, "word cost volume", || adapter.unit().forward(&patches, &words, Mode::Eval));
    }
    let text_guest = model.text_adapters().guest(Mode::Eval);
    forward(criterion, "text encoder, two blocks", || {
        model.text().forward(&ids, &text_guest, &unobserved).state
    });
    let unit = &model.neck().units()[0];
    forward(criterion, "sentence cost volume", || unit.forward(&map, &state, &words, Mode::Eval));
    forward(criterion, "neck", || model.neck().forward(&taps, &state, &words, Mode::Eval).features);
    forward(criterion, "decoder", || model.decoder().forward(&map, &words, None, Mode::Eval));
    forward(criterion, "projector", || model.projector().forward(&map, &state, Mode::Eval));
}

/// Forward and backward pass of linear layers and attention: this project's functions and libtorch's.
fn products(criterion: &mut Criterion) {
    let leaf = |size: &[i64]| Tensor::randn(size, PLACE).set_requires_grad(true);
    let mut group = criterion.benchmark_group("linear 1029x768 to 3072, forward and backward");
    group.sample_size(20);
    let (xs, weight) = (leaf(&[1, 1029, 768]), leaf(&[3072, 768]));
    group.bench_function("here", |bench| bench.iter(|| linear(&xs, &weight, None).sum(None).backward()));
    group.bench_function("libtorch", |bench| {
        bench.iter(|| xs.linear(&weight, None::<&Tensor>).sum(None).backward());
    });
    group.finish();

    let mut group = criterion.benchmark_group("attention, 12 heads of 64, 1029 tokens, forward and backward");
    group.sample_size(20);
    let [q, k, v] = [0, 1, 2].map(|_| leaf(&[1, 1029, 12, 64]));
    let heads = || [&q, &k, &v].map(|xs| xs.transpose(1, 2));
    group.bench_function("here", |bench| {
        bench.iter(|| {
            let [q, k, v] = heads();
            attention(&q, &k, &v, 0.0, false).sum(None).backward();
        });
    });
    group.bench_function("libtorch", |bench| {
        bench.iter(|| {
            let [q, k, v] = heads();
            Tensor::scaled_dot_product_attention(&q, &k, &v, None::<&Tensor>, 0.0, false, None, false)
                .sum(None)
                .backward();
        });
    });
    group.finish();
}

criterion_group!(benches, modules, products);
criterion_main!(benches);
