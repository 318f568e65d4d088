//! A small DINOv2 and a small CLIP text encoder with random weights. `cargo run --release --package backbone --example quickstart`
#![allow(clippy::print_stdout, missing_docs)]

use backbone::torch_ext::Store;
use backbone::{
    ImageDesign, ImageEncoderConfig, PositionRule, TextDesign, TextEncoderConfig, Variant, guest, unobserved,
};
use tch::{Device, Kind, Tensor};

fn main() {
    let place = (Kind::Float, Device::Cpu);
    let store = Store::seeded(Device::Cpu, Kind::Float, 0);
    let sizes = ImageEncoderConfig {
        width: 64,
        depth: 4,
        n_heads: 4,
        mlp_ratio: 4,
        patch_size: 14,
        n_registers: 4,
        position_grid: 8,
        position_rule: PositionRule::Dinov2,
        low_precision_tokens: false,
        variant: Variant::default(),
    };
    let image = ImageDesign::PUBLISHED.build(&(store.root() / "image"), &sizes, &mut |_, _| {});
    let images = Tensor::randn([2, 3, 112, 112], place);
    let features = tch::no_grad(|| image.forward(&images, &[1, 2], &guest::nobody, &unobserved));
    println!("backbone: {} gives maps {:?}", image.spec().name, image.map(&features.last).size());

    let sizes = TextEncoderConfig {
        width: 64,
        depth: 2,
        n_heads: 4,
        vocabulary: 100,
        context: 20,
        state_width: 32,
        variant: Variant::default(),
    };
    let text = TextDesign::PUBLISHED.build(&(store.root() / "text"), &sizes, &mut |_, _| {});
    // Two sentences: start token 98, words, end token 99, padding.
    let ids = Tensor::from_slice(&[98_i64, 5, 7, 99, 0, 98, 3, 99, 0, 0]).view([2, 5]);
    let out = tch::no_grad(|| text.forward(&ids, &guest::nobody, &unobserved));
    println!("{} gives words {:?} and sentences {:?}", text.spec().name, out.words.size(), out.state.size());
    println!("{} tensors in the official order, the first: {}", store.entries().len(), store.entries()[0].0);
}
