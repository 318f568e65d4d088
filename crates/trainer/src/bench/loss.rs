//! `bench loss`: the consistency loss (CPCL) with a chosen share of positions that have a partner.

use anyhow::{Result, bail, ensure};
use clap::Args;
use serde_json::json;
use tch::{Device, Kind, Tensor};
use tlm_losses::Cpcl;

use super::memory::{extra_mib, peak_mib};
use super::{BenchReport, Pace, Timing};
use crate::config::Precision;

#[derive(Debug, Args)]
pub(crate) struct LossBenchArgs {
    /// Shape of a level's features: samples, channels, rows, columns
    #[arg(long, default_value = "4,512,32,32", value_delimiter = ',')]
    shape: Vec<i64>,
    /// Share of the positions that have a partner, above 0 and up to 1
    #[arg(long, default_value_t = 0.1)]
    passing: f64,
    /// Number of feature levels
    #[arg(long, default_value_t = 3)]
    levels: usize,
    #[command(flatten)]
    timing: Timing,
}

/// Features of one level and a sentence.
struct Level {
    features: Tensor,
    sentence: Tensor,
}

/// Times forward and backward pass over all levels.
pub(crate) fn bench_loss(args: &LossBenchArgs) -> Result<()> {
    let &[n, channels, rows, columns] = args.shape.as_slice() else { bail!("--shape takes four sizes") };
    ensure!(args.shape.iter().all(|&side| side > 0), "--shape must be positive");
    ensure!((1..=64).contains(&args.levels), "--levels must be 1 to 64");
    ensure!(args.passing > 0.0 && args.passing <= 1.0, "--passing must be above 0 and at most 1");
    let device = args.timing.machine.set_up()?;
    tch::manual_seed(0);
    let levels: Vec<Level> = (0..args.levels)
        .map(|_| with_share([n, channels, rows, columns], args.passing, device))
        .collect::<Result<_>>()?;
    let mut run = || -> Result<()> {
        let losses = levels.iter().map(|level| Cpcl::default().loss(&level.features, &level.sentence).loss);
        losses.sum::<Tensor>().backward();
        for level in &levels {
            level.features.shallow_clone().zero_grad();
        }
        Ok(())
    };
    let measured = args.timing.repeats.measure(Pace::Synchronised, device, &mut run)?;
    let peak = peak_mib(device)?;
    // The leaf tensors' gradients are not memory of the loss itself. They are already allocated here, so they do not count.
    let extra = if device.is_cuda() { None } else { Some(extra_mib(run)?) };
    let shares: Vec<f64> = levels.iter().map(share).collect::<Result<_>>()?;
    // Forward: cosines of the rows that have a partner. Backward: two more products of that size or, because the matrix is
    // symmetric, one product over all rows, whichever is less.
    let one = 2.0 * ((rows * columns).pow(2) * channels * n) as f64;
    let flops = shares.iter().map(|share| one * (share + (2.0 * share).min(1.0))).sum::<f64>() as u64;
    let report = BenchReport {
        head: json!({
            "bench": "loss", "shape": args.shape, "levels": args.levels, "passing": shares, "peak_extra_mib": extra,
        }),
        measured: &measured,
        samples: n as usize,
        flops,
        device,
        precision: Precision::Fp32,
        peak_mib: peak,
    };
    report.print(args.timing.json)
}

/// Share of positions with a partner.
fn share(level: &Level) -> Result<f64> {
    let partners = tch::no_grad(|| Cpcl::default().loss(&level.features, &level.sentence).partners);
    Ok(f64::try_from(partners.ge(0).to_kind(Kind::Double).mean(None))?)
}

/// Non-negative random features, like those of the neck, and a sentence vector whose scale is found by bisection so that
/// the share of positions with a partner is `wanted`.
fn with_share(shape: [i64; 4], wanted: f64, device: Device) -> Result<Level> {
    let place = (Kind::Float, device);
    let features = Tensor::randn(shape, place).relu();
    let direction = Tensor::randn([shape[0], shape[1]], place);
    let (mut low, mut high) = (0.0, 1e4);
    for _ in 0..40 {
        let middle = 0.5 * (low + high);
        let sentence = &direction * middle;
        let level = Level { features: features.shallow_clone(), sentence };
        if share(&level)? < wanted { low = middle } else { high = middle }
    }
    Ok(Level { features: features.set_requires_grad(true), sentence: direction * high })
}
