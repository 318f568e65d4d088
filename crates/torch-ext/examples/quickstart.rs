//! Fits y = 2 x + 1 with this crate's store, layer and Adam. `cargo run --release --package torch-ext --example quickstart`
#![allow(clippy::print_stdout, missing_docs)]

use tch::{Device, Kind, Tensor};
use torch_ext::layers::Linear;
use torch_ext::{Adam, AdamConfig, AdamGroup, Store};

fn main() -> anyhow::Result<()> {
    let store = Store::seeded(Device::Cpu, Kind::Float, 0);
    let layer = Linear::torch_default(&(store.root() / "layer"), 1, 1);
    let params = store.entries().into_iter().map(|(name, entry)| (name, entry.tensor)).collect();
    let cfg = AdamConfig { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0 };
    let mut adam = Adam::new([AdamGroup { params, lr: 0.05 }], cfg);

    let xs = Tensor::linspace(-1.0, 1.0, 64, (Kind::Float, Device::Cpu)).view([64, 1]);
    let ys = &xs * 2.0 + 1.0;
    let mut last = f64::NAN;
    for _ in 0..300 {
        adam.zero_grad()?;
        let loss = (layer.forward(&xs) - &ys).square().mean(Kind::Float);
        loss.backward();
        adam.step(1.0)?;
        last = f64::try_from(&loss)?;
    }
    println!("torch-ext on libtorch {}, CUDA {}", torch_ext::version()?, tch::Cuda::is_available());
    println!("mean squared error {last:.1e} after 300 steps");
    for (name, entry) in store.entries() {
        println!("{name} = {:.3}", f64::try_from(entry.tensor.view([]))?);
    }
    Ok(())
}
