//! A frozen image encoder with visual adapters in its blocks. Only the adapters train.
//! `cargo run --release --package adapters --example quickstart`
#![allow(clippy::print_stdout, missing_docs)]

use adapters::backbone::{IMAGE_ENCODER, ImageDesign, ImageEncoderConfig, PositionRule, Variant, unobserved};
use adapters::rca::WordUnitConfig;
use adapters::torch_ext::layers::Mode;
use adapters::torch_ext::{Store, Trains};
use adapters::{AdapterFusion, Gate, VisualAdapters, VisualAdaptersConfig};
use tch::{Device, Kind, Tensor};

fn main() {
    let place = (Kind::Float, Device::Cpu);
    let store = Store::seeded(Device::Cpu, Kind::Float, 0);
    let encoder = ImageEncoderConfig {
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
    let mut adapters = VisualAdapters::new(VisualAdaptersConfig {
        blocks: vec![1, 3],
        image_width: 64,
        n_special: 5,
        unit: WordUnitConfig::new(32, 48, 16, 17),
        fusion: AdapterFusion::CostVolume,
        gate: Gate::Learned,
    });
    // Each adapter registers its parameters after those of its block.
    let register = &mut |block: usize, path: &_| adapters.register(block, path);
    let image =
        ImageDesign::PUBLISHED.build(&(store.root().in_group(IMAGE_ENCODER) / "dinov2"), &encoder, register);
    store.set_trainable(|_, entry| entry.group.trains == Trains::Always);

    let (images, words) = (Tensor::randn([2, 3, 112, 112], place), Tensor::randn([2, 17, 48], place));
    let guest = adapters.guest(&words, None, Mode::Train, &|_, _| {});
    let features = image.forward(&images, &[], &guest, &unobserved);
    features.last.square().mean(Kind::Float).backward();

    let (mut trained, mut frozen) = (0, 0);
    for (_, entry) in store.entries() {
        let count = if entry.tensor.requires_grad() { &mut trained } else { &mut frozen };
        *count += entry.tensor.numel();
    }
    let gate = store.get("dinov2.blocks.3.ls_gate.gamma").map(|gate| gate.grad().norm());
    println!("adapters: {trained} values train, {frozen} do not");
    println!(
        "norm of a gate's gradient: {:.1e}",
        gate.and_then(|norm| f64::try_from(norm).ok()).unwrap_or(f64::NAN)
    );
}
