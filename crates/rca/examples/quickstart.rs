//! Both cost volumes and the neck on random features. `cargo run --release --package rca --example quickstart`
#![allow(clippy::print_stdout, missing_docs)]

use rca::torch_ext::Store;
use rca::torch_ext::layers::Mode;
use rca::{Neck, NeckConfig, NeckFusion, WordCostVolume, WordUnitConfig};
use tch::{Device, Kind, Tensor};

fn main() {
    let place = (Kind::Float, Device::Cpu);
    let store = Store::seeded(Device::Cpu, Kind::Float, 0);

    // Word level: 64 patches of width 32 compared with 17 words of width 48.
    let sizes = WordUnitConfig::new(32, 48, 16, 17);
    let unit = WordCostVolume::new(&(store.root() / "cross"), sizes);
    let (patches, words) = (Tensor::randn([2, 64, 32], place), Tensor::randn([2, 17, 48], place));
    let seen = unit.forward(&patches, &words);

    // Sentence level: three taps of an image encoder, fused with the sentence.
    let neck = Neck::new(
        &(store.root() / "neck"),
        NeckConfig {
            image_width: 96,
            text_width: 48,
            state_width: 48,
            width: 64,
            fusion: NeckFusion::CostVolume,
        },
    );
    let taps = [0, 1, 2].map(|_| Tensor::randn([2, 96, 8, 8], place));
    let state = Tensor::randn([2, 48], place);
    let out = neck.forward(&taps, &state, &words, Mode::Train);
    let active = out.fused[0].gt(0.0).to_kind(Kind::Float).mean(Kind::Float);

    println!("rca: word cost volume {:?}, neck {:?}", seen.size(), out.features.size());
    println!("{} parameters and buffers", store.entries().len());
    println!(
        "entries of the first fused level above 0: {:.0} %",
        100.0 * f64::try_from(active).unwrap_or(f64::NAN)
    );
}
