//! The three losses on random tensors, with their gradients. `cargo run --release --package tlm-losses --example quickstart`
#![allow(clippy::print_stdout, missing_docs)]

use tch::{Device, Kind, Tensor};
use tlm_losses::{Cpcl, Segmentation, Tccl};

fn main() -> anyhow::Result<()> {
    tch::manual_seed(0);
    let place = (Kind::Float, Device::Cpu);
    let (batch, width, side) = (4, 64, 16);
    // Outputs of a network: fused map, logits, sentence vectors. Labels from the data: mask, and which samples have a negative.
    let map = Tensor::randn([batch, width, side, side], place).relu().set_requires_grad(true);
    let logits = Tensor::randn([batch, 1, 4 * side, 4 * side], place).set_requires_grad(true);
    let vector = || Tensor::randn([batch, width], place);
    let mask = Tensor::rand([batch, 1, 224, 224], place).gt(0.8).to_kind(Kind::Float);
    let valid = Tensor::from_slice(&[1.0_f32, 1.0, 1.0, 0.0]);

    let seg = Segmentation::default().loss(&logits, &mask);
    let cpcl = Cpcl::default().loss(&map, &vector());
    let tccl = Tccl::default().loss(&map, &vector(), &vector(), &valid, None);
    let total = seg.total() + &cpcl.loss * 0.1 + &tccl.loss * 0.1;
    total.backward();

    let with_partner = cpcl.partners.ge(0).to_kind(Kind::Float).mean(Kind::Float);
    println!("tlm-losses: total {:.4}", f64::try_from(&total)?);
    println!("BCE {:.4}, soft IoU {:.4}", f64::try_from(&seg.cross_entropy)?, f64::try_from(&seg.soft_iou)?);
    println!(
        "CPCL {:.4}, positions with a partner {:.2}",
        f64::try_from(&cpcl.loss)?,
        f64::try_from(&with_partner)?
    );
    println!("TCCL {:.4}", f64::try_from(&tccl.loss)?);
    println!(
        "gradient norms: map {:.1e}, logits {:.1e}",
        f64::try_from(map.grad().norm())?,
        f64::try_from(logits.grad().norm())?
    );
    Ok(())
}
