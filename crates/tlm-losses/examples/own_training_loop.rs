//! TALENT's losses in a training loop written with tch's own layers and optimiser: a tiny network is trained with the
//! segmentation loss and both parts of TLM. `cargo run --release --package tlm-losses --example own_training_loop`
#![allow(clippy::print_stdout, missing_docs)]

use tch::nn::{self, Module, OptimizerConfig};
use tch::{Device, Kind, Tensor};
use tlm_losses::{Cpcl, CpclConfig, Segmentation, Tccl};

const SIDE: i64 = 12;
const WIDTH: i64 = 32;
const PLACE: (Kind, Device) = (Kind::Float, Device::Cpu);

struct Batch {
    /// Images with a red and a blue blob, three channels.
    images: Tensor,
    masks: Tensor,
    /// Vectors `[n, 3]`: the requested colour, the same colour with different noise, and the other colour.
    sentences: [Tensor; 3],
}

fn batch(n: i64) -> Batch {
    let axis = Tensor::arange(SIDE, PLACE);
    let near = |centre: Tensor| (&axis - centre.unsqueeze(-1)).abs().le(1.5).to_kind(Kind::Float);
    let blobs = near(Tensor::randint(SIDE, [n, 2], PLACE)).unsqueeze(-1)
        * near(Tensor::randint(SIDE, [n, 2], PLACE)).unsqueeze(-2); // n 2 side side
    let asked = Tensor::randint(2, [n], (Kind::Int64, Device::Cpu));
    let masks = blobs.gather(1, &asked.view([n, 1, 1, 1]).expand([n, 1, SIDE, SIDE], false), false);
    let noise = Tensor::randn([n, 1, SIDE, SIDE], PLACE) * 0.1;
    let said = |colour: &Tensor| colour.one_hot(3).to_kind(Kind::Float) + Tensor::randn([n, 3], PLACE) * 0.1;
    let other: Tensor = 1 - &asked;
    Batch {
        images: Tensor::cat(&[blobs, noise], 1),
        masks,
        sentences: [said(&asked), said(&asked), said(&other)],
    }
}

fn main() -> anyhow::Result<()> {
    tch::manual_seed(0);
    let vars = nn::VarStore::new(Device::Cpu);
    let root = vars.root();
    let conv = nn::ConvConfig { padding: 1, ..Default::default() };
    let encoder = nn::conv2d(&root / "encoder", 3, WIDTH, 3, conv);
    let text = nn::linear(&root / "text", 3, WIDTH, Default::default());
    let head = nn::conv2d(&root / "head", WIDTH, 1, 3, conv);
    let mut optimiser = nn::Adam::default().build(&vars, 5e-3)?;

    // A temperature below 1 gives CPCL a useful gradient on small maps; the default is the published loss.
    let cpcl = Cpcl::new(CpclConfig { temperature: 0.2, ..Default::default() });
    let valid = Tensor::ones([16], PLACE);
    for step in 0..=150 {
        let Batch { images, masks, sentences } = batch(16);
        let [sentence, positive, negative] = sentences.map(|xs| text.forward(&xs));
        let map = encoder.forward(&images).relu() * sentence.relu().unsqueeze(-1).unsqueeze(-1);
        let logits = head.forward(&map);

        let seg = Segmentation::default().loss(&logits, &masks).total();
        let consistency = cpcl.loss(&map, &sentence).loss;
        let contrast = Tccl::default().loss(&map, &positive, &negative, &valid, None).loss;
        let total = &seg + &consistency * 0.1 + &contrast * 0.1;
        optimiser.backward_step(&total);
        if step % 50 == 0 {
            let [total, seg, consistency, contrast] =
                [total, seg, consistency, contrast].map(|xs| f64::try_from(xs).unwrap_or(f64::NAN));
            println!(
                "step {step}: {total:.3} = seg {seg:.3} + 0.1 CPCL {consistency:.3} + 0.1 TCCL {contrast:.3}"
            );
        }
    }
    Ok(())
}
