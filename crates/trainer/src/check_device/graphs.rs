//! Compares steps replayed from a CUDA graph with ordinary steps.

use anyhow::{Context, Result, ensure};
use talent::{Pass, Triplet};
use tch::{Kind, Tensor};

use super::part::{Outcome, Setting};
use super::steps::Bench;
use crate::batch::TrainTensors;
use crate::config::{Config, Precision};
use crate::optim::adam;
use crate::precision::LossScaler;
use crate::step::QueuedStep;
use crate::step_graph::GraphedSteps;

/// Number of steps: three ordinary warm-up steps, then one is recorded, and the rest replay the recording.
const STEPS: usize = 10;
/// Allowed relative error of a loss: the order of sums is not deterministic on a GPU.
const OFF: f64 = 0.02;

/// Learning rate factor of a step, different for every step.
fn factor(step: usize) -> f64 {
    1.0 / (1.0 + step as f64)
}

/// Reuses memory of all sizes that is free, and leaves NaN in it; also runs the network on a smaller batch, so that its caches
/// hold tensors of other sizes. A graph that reads a tensor that nothing keeps alive then computes with NaN.
fn use_freed_memory(bench: &Bench) -> Result<()> {
    let shared =
        TrainTensors::new(&bench.batch, bench.device, Kind::Float)?.part(0, bench.batch.n as i64 / 2);
    let ids = Triplet { words: &shared.words, positives: &shared.positives, negatives: &shared.negatives };
    tch::no_grad(|| bench.model.forward(&shared.images, ids, &Pass::EVAL));
    let nan = |n: i64| Tensor::full([n], f64::NAN, (Kind::Float, bench.device));
    let sizes = [(1, 1000), (1000, 200), (100_000, 50), (10_000_000, 10)];
    let reused: Vec<Tensor> =
        sizes.iter().flat_map(|&(n, count)| (0..count).map(move |_| n)).map(nan).collect();
    drop(reused);
    Ok(())
}

/// Runs all steps. Returns their total losses, and the change of each parameter.
fn run(bench: &Bench, graphed: bool) -> Result<(Vec<f64>, Vec<Tensor>)> {
    let start = bench.parameters();
    let steps = bench.steps(false);
    let mut adam = adam(&bench.model, &bench.cfg.train);
    let mut scaler = LossScaler::new(bench.cfg.train.precision);
    let mut recorded = if graphed { Some(GraphedSteps::prepare(&steps)?) } else { None };
    let mut before: Option<QueuedStep> = None;
    let mut losses = Vec::new();
    let may_skip = scaler.may_skip();
    let mut read = |step: QueuedStep| -> Result<()> {
        let report = step.report()?;
        ensure!(report.updated || may_skip, "a step was not taken: {:?}", report.losses);
        losses.extend(report.losses.iter().find(|(name, _)| *name == "total").map(|(_, loss)| *loss));
        Ok(())
    };
    for step in 0..STEPS {
        let batch = &bench.batch;
        let queued = match &mut recorded {
            Some(recorded) => {
                recorded.queue(&steps, &mut adam, &mut scaler, batch, factor(step), before.as_ref())?
            }
            None => steps.queue(&mut adam, &mut scaler, batch, factor(step), before.as_ref())?,
        };
        if let Some(last) = before.replace(queued) {
            read(last)?;
        }
        if graphed {
            use_freed_memory(bench)?;
        }
    }
    if let Some(last) = before {
        read(last)?;
    }
    let moved = bench.parameters().iter().zip(&start).map(|(now, then)| now - then).collect();
    Ok((losses, moved))
}

pub(super) fn graphs(setting: &Setting) -> Result<Outcome> {
    if !setting.device.is_cuda() {
        return Ok(Outcome::not_applicable("graphs are for NVIDIA GPUs"));
    }
    let mut outcome = Outcome::default();
    for precision in [Precision::Fp32, Precision::Bf16, Precision::Fp16] {
        let label = format!("{precision:?}").to_lowercase();
        let networks = || Bench::new(setting, precision, 0.0);
        compare(&mut outcome, &label, networks, if precision == Precision::Fp32 { 0.05 } else { 0.3 })?;
    }
    // With dropout, every step must draw new random numbers.
    let bench = Bench::new(setting, Precision::Bf16, 0.1)?;
    let (losses, _) = run(&bench, true)?;
    outcome
        .require(losses.iter().all(|loss| loss.is_finite()), || "a loss with dropout is not finite".into());
    let repeated = losses.windows(2).filter(|pair| pair[0] == pair[1]).count();
    outcome.require(repeated == 0, || format!("{repeated} steps with dropout equal the one before"));
    Ok(outcome)
}

/// Graphs of the base model, recorded after another network has trained in this process, when its memory is no longer fresh.
pub(super) fn full_size(setting: &Setting) -> Result<Outcome> {
    if !setting.device.is_cuda() {
        return Ok(Outcome::not_applicable("graphs are for NVIDIA GPUs"));
    }
    let mut outcome = Outcome::default();
    let mut cfg = if setting.small() { Config::tiny() } else { Config::base() };
    cfg.train.precision = Precision::Bf16;
    cfg.train.accumulate = 1;
    cfg.model.decoder.dropout = 0.0;
    for round in ["first", "second"] {
        compare(&mut outcome, round, || Bench::of(setting, cfg.clone(), 4), 0.3)?;
    }
    Ok(outcome)
}

/// Compares replayed steps with ordinary ones.
///
/// - off: allowed relative error of the parameters' change; it is larger in bf16 than in float32 because of noise
fn compare(outcome: &mut Outcome, label: &str, networks: impl Fn() -> Result<Bench>, off: f64) -> Result<()> {
    let usual = run(&networks()?, false)?;
    let bench = networks()?;
    let graphed = run(&bench, true).with_context(|| label.to_owned())?;
    outcome.require(graphed.0.len() == STEPS, || format!("{label}: {} steps were read", graphed.0.len()));
    for (step, (found, expected)) in graphed.0.iter().zip(&usual.0).enumerate() {
        let off = (found / expected - 1.0).abs();
        outcome.require(off <= OFF, || format!("{label}: the loss of step {} is off by {off:.1e}", step + 1));
    }
    let joined = |list: &[Tensor]| Tensor::cat(&list.iter().map(|one| one.view([-1])).collect::<Vec<_>>(), 0);
    let (found, expected) = (joined(&graphed.1), joined(&usual.1));
    let apart = f64::try_from((&found - &expected).norm() / expected.norm())?;
    outcome.at_most(&format!("{label}: parameters moved otherwise by"), apart, off);
    let entries = bench.model.store().entries();
    let passes = entries.into_iter().find(|(name, _)| name.ends_with("num_batches_tracked"));
    let counted = passes.map(|(_, entry)| i64::try_from(entry.tensor)).transpose()?;
    outcome.require(counted == Some(STEPS as i64), || format!("batch norms counted {counted:?} passes"));
    Ok(())
}
