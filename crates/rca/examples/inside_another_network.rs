//! RCA's sentence-level cost volume inside another network: a small convolutional encoder whose features the cost volume fuses
//! with a sentence vector, trained to segment the blob whose colour the sentence names.
//! `cargo run --release --package rca --example inside_another_network`
#![allow(clippy::print_stdout, missing_docs)]

use rca::SentenceCostVolume;
use rca::torch_ext::layers::{Conv2d, ConvConfig, Linear, Mode};
use rca::torch_ext::{Adam, AdamConfig, AdamGroup, Init, Store};
use tch::{Device, Kind, Tensor};

const SIDE: i64 = 16;
const WIDTH: i64 = 24;

/// Images with a blob in each of three colours, the requested colour (one-hot), and the mask of that blob.
fn batch(n: i64) -> (Tensor, Tensor, Tensor) {
    let place = (Kind::Float, Device::Cpu);
    let asked = Tensor::randint(3, [n], (Kind::Int64, Device::Cpu));
    let axis = Tensor::arange(SIDE, place);
    let near = |centre: &Tensor| (&axis - centre.unsqueeze(-1)).abs().le(2.0).to_kind(Kind::Float); // n 3 side
    let centre = || Tensor::randint(SIDE, [n, 3], place);
    let blobs = near(&centre()).unsqueeze(-1) * near(&centre()).unsqueeze(-2); // n 3 side side
    let mask = blobs.gather(1, &asked.view([n, 1, 1, 1]).expand([n, 1, SIDE, SIDE], false), false);
    (blobs + Tensor::randn([n, 3, SIDE, SIDE], place) * 0.1, asked.one_hot(3).to_kind(Kind::Float), mask)
}

fn main() -> anyhow::Result<()> {
    tch::manual_seed(0);
    let store = Store::seeded(Device::Cpu, Kind::Float, 0);
    let root = store.root();
    let start = Init::Uniform(0.2);
    let conv = |name: &str, n_in: i64, n_out: i64, kernel: i64| {
        Conv2d::new(&(&root / name), ConvConfig { n_in, n_out, kernel, weight: start, bias: Some(start) })
    };
    let (first, last) = (conv("first", 3, WIDTH, 3), conv("last", WIDTH, 1, 3));
    let sentence = Linear::torch_default(&(&root / "sentence"), 3, WIDTH);
    let fusion = SentenceCostVolume::new(&(&root / "fusion"), WIDTH);

    let entries = store.entries().into_iter().filter(|(_, entry)| entry.tensor.requires_grad());
    let params = entries.map(|(name, entry)| (name, entry.tensor)).collect();
    let cfg = AdamConfig { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0 };
    let mut adam = Adam::new([AdamGroup { params, lr: 1e-2 }], cfg);
    for step in 0..=200 {
        let (images, asked, masks) = batch(16);
        let features = first.forward(&images).relu();
        let fused = fusion.forward(&features, &sentence.forward(&asked), Mode::Train);
        let logits = last.forward(&fused);
        let none = None::<&Tensor>;
        let loss = logits.binary_cross_entropy_with_logits(&masks, none, none, tch::Reduction::Mean);
        adam.zero_grad()?;
        loss.backward();
        adam.step(1.0)?;
        if step % 100 == 0 {
            let found = logits.gt(0.0).to_kind(Kind::Float);
            let iou = (&found * &masks).sum(Kind::Float) / found.maximum(&masks).sum(Kind::Float);
            println!("step {step}: loss {:.3}, oIoU {:.2}", f64::try_from(&loss)?, f64::try_from(&iou)?);
        }
    }
    Ok(())
}
