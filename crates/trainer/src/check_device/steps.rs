//! Checks steps in bf16 and fp16, with activation checkpointing, with uninitialised memory, and with NaN.

use anyhow::{Context, Result, bail, ensure};
use refcoco::Batch;
use talent::Talent;
use tch::{Device, Kind, Tensor};
use torch_ext::Adam;

use super::part::{Outcome, Setting};
use crate::bench::network::random_batch;
use crate::config::{Config, Precision};
use crate::distributed::Processes;
use crate::encoder_input::sample_shape;
use crate::optim::adam;
use crate::precision::LossScaler;
use crate::step::{QueuedStep, StepReport, Steps};

/// A network, and a random batch for it.
pub(super) struct Bench {
    pub(super) cfg: Config,
    pub(super) model: Talent,
    pub(super) batch: Batch,
    pub(super) device: Device,
    processes: Processes,
}

/// The results of a step.
struct Taken {
    report: StepReport,
    /// Flattened gradients of all parameters, in float64 on the CPU.
    gradients: Vec<Tensor>,
}

impl Bench {
    pub(super) fn new(setting: &Setting, precision: Precision, dropout: f64) -> Result<Self> {
        Self::changed(setting, precision, dropout, |_| {})
    }

    fn changed(
        setting: &Setting,
        precision: Precision,
        dropout: f64,
        change: impl FnOnce(&mut Config),
    ) -> Result<Self> {
        let mut cfg = Config::tiny();
        cfg.train.precision = precision;
        cfg.model.decoder.dropout = dropout;
        change(&mut cfg);
        Self::of(setting, cfg, 8)
    }

    /// Builds the network of a config, and a batch of `n` samples.
    pub(super) fn of(setting: &Setting, cfg: Config, n: usize) -> Result<Self> {
        let model = Talent::seeded(&cfg.model, setting.device, Kind::Float, 1)?;
        tch::manual_seed(1);
        let shape = sample_shape(&cfg.model);
        let batch = random_batch(n, shape, refcoco::VOCABULARY);
        Ok(Self { cfg, model, batch, device: setting.device, processes: Processes::default() })
    }

    pub(super) fn steps(&self, recompute: bool) -> Steps<'_> {
        let Self { cfg, model, device, processes, .. } = self;
        Steps { recompute, ..Steps::plain(model, cfg, *device, processes) }
    }

    /// Takes the first step of a new optimiser.
    fn step(&self, recompute: bool) -> Result<Taken> {
        let mut adam = adam(&self.model, &self.cfg.train);
        let mut scaler = LossScaler::new(self.cfg.train.precision);
        let report = self.update(&mut adam, &mut scaler, recompute)?;
        let host = |xs: Tensor| xs.to_kind(Kind::Double).to_device(Device::Cpu).view([-1]);
        Ok(Taken { report, gradients: adam.grads().into_iter().map(host).collect() })
    }

    /// Repeats the step until it updates the parameters: float16's loss scale starts high and falls after each overflow.
    fn update(&self, adam: &mut Adam, scaler: &mut LossScaler, recompute: bool) -> Result<StepReport> {
        for _ in 0..16 {
            let step = self.steps(recompute).queue(adam, scaler, &self.batch, 1.0, None)?.report()?;
            if step.updated || !scaler.may_skip() {
                return Ok(step);
            }
        }
        bail!("16 steps were skipped")
    }

    pub(super) fn parameters(&self) -> Vec<Tensor> {
        self.model.trainable().into_iter().map(|(_, tensor)| tensor.detach().copy()).collect()
    }

    fn has_moved(&self, from: &[Tensor]) -> bool {
        !self.parameters().iter().zip(from).all(|(now, then)| now.equal(then))
    }
}

/// Cosine between two gradients of all parameters.
fn cosine(a: &[Tensor], b: &[Tensor]) -> Result<f64> {
    let (a, b) = (Tensor::cat(a, 0), Tensor::cat(b, 0));
    Ok(f64::try_from(a.dot(&b) / (a.norm() * b.norm()))?)
}

/// Compares a step in half precision with one in float32. After a dozen layers, 8 bits of mantissa leave errors of a percent
/// in a loss, 11 bits a tenth of that, and CPCL counts positions beyond a threshold. The bounds were measured on a CPU and
/// have some margin.
///
/// - term: allowed relative error of each loss; angle: allowed 1 - cosine between the gradients
fn half(setting: &Setting, precision: Precision, term: f64, angle: f64) -> Result<Outcome> {
    let full = Bench::new(setting, Precision::Fp32, 0.0)?.step(false)?;
    let half = Bench::new(setting, precision, 0.0)?.step(false)?;
    let lower = Bench::changed(setting, precision, 0.0, |cfg| cfg.model.image.low_precision_tokens = true)?;
    let mut outcome = Outcome::default();
    outcome.require(half.report.finite && half.report.updated, || "the step was skipped".into());
    for ((name, found), (_, expected)) in half.report.losses.iter().zip(&full.report.losses) {
        outcome.at_most(&format!("{name} off by"), (found / expected - 1.0).abs(), term);
    }
    outcome.at_most("gradient: 1 - cosine", 1.0 - cosine(&half.gradients, &full.gradients)?, angle);
    let lower = lower.step(false)?;
    let apart = 1.0 - cosine(&lower.gradients, &full.gradients)?;
    outcome.at_most("gradient with low-precision tokens: 1 - cosine", apart, 2.0 * angle);
    Ok(outcome)
}

pub(super) fn bf16(setting: &Setting) -> Result<Outcome> {
    half(setting, Precision::Bf16, 0.03, 0.05)
}

pub(super) fn fp16(setting: &Setting) -> Result<Outcome> {
    half(setting, Precision::Fp16, 0.02, 0.005)
}

/// Compares steps with and without activation checkpointing, which repeats the blocks' forward passes with the same kernels.
/// On a CPU the order of sums is the same, too, so the results are identical.
pub(super) fn recompute(setting: &Setting) -> Result<Outcome> {
    let bound = if setting.device.is_cuda() { 1e-5 } else { 0.0 };
    let mut outcome = Outcome::default();
    for precision in [Precision::Fp32, Precision::Bf16] {
        let kept = Bench::new(setting, precision, 0.1)?.step(false)?;
        let again = Bench::new(setting, precision, 0.1)?.step(true)?;
        ensure!(kept.gradients.len() == again.gradients.len(), "other parameters have a gradient");
        let label = format!("{precision:?}").to_lowercase();
        let bound = if precision == Precision::Bf16 { bound * 1000.0 } else { bound };
        for ((name, found), (_, expected)) in again.report.losses.iter().zip(&kept.report.losses) {
            outcome.at_most(&format!("{label}: {name} off by"), (found / expected - 1.0).abs(), bound);
        }
        let (a, b) = (Tensor::cat(&again.gradients, 0), Tensor::cat(&kept.gradients, 0));
        let error = f64::try_from((&a - &b).norm() / b.norm())?;
        outcome.at_most(&format!("{label}: gradient off by"), error, bound);
    }
    Ok(outcome)
}

/// Checks that a step reads no uninitialised memory: filling that memory with NaN must not change the step.
pub(super) fn uninitialised(setting: &Setting) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    for precision in [Precision::Fp32, Precision::Bf16] {
        let label = format!("{precision:?}").to_lowercase();
        let clean = Bench::new(setting, precision, 0.1)?.step(false)?;
        let bench = Bench::new(setting, precision, 0.1)?;
        let poisoned = torch_ext::with_poisoned_memory(|| bench.step(false))??;
        outcome.require(poisoned.report.finite, || format!("{label}: a step reads memory that nobody wrote"));
        let off = 1.0 - cosine(&poisoned.gradients, &clean.gradients)?;
        outcome.at_most(&format!("{label}: gradient: 1 - cosine"), off, 1e-3);
    }
    Ok(outcome)
}

pub(super) fn nan(setting: &Setting) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut bench = Bench::new(setting, Precision::Fp32, 0.0)?;
    bench.batch.images[7] = f32::NAN;
    let start = bench.parameters();
    let mut optimiser = adam(&bench.model, &bench.cfg.train);
    let mut scaler = LossScaler::new(Precision::Fp32);
    let steps = bench.steps(false);
    let failed = steps.queue(&mut optimiser, &mut scaler, &bench.batch, 1.0, None)?;
    let behind = steps.queue(&mut optimiser, &mut scaler, &bench.batch, 1.0, Some(&failed))?;
    outcome.require(!failed.report()?.finite, || "a NaN in a picture goes unnoticed".into());
    outcome.require(!behind.report()?.updated, || "the step behind a failed one was taken".into());
    outcome.require(!bench.has_moved(&start), || "parameters moved in a failed step".into());

    let mut bench = Bench::new(setting, Precision::Fp16, 0.0)?;
    let mut optimiser = adam(&bench.model, &bench.cfg.train);
    let mut scaler = LossScaler::new(Precision::Fp16);
    let start = bench.parameters();
    bench.batch.images[7] = f32::INFINITY;
    let skipped = bench.steps(false).queue(&mut optimiser, &mut scaler, &bench.batch, 1.0, None)?;
    let is_skipped = matches!(&skipped, QueuedStep::Known(report) if !report.updated);
    outcome.require(is_skipped && scaler.skipped == 1, || "fp16 does not skip an overflow".into());
    outcome.require(!bench.has_moved(&start), || "parameters moved in a skipped step".into());
    // The batch norms' running statistics are no longer finite. A new network continues with the same scaler.
    let bench = Bench::new(setting, Precision::Fp16, 0.0)?;
    let mut optimiser = adam(&bench.model, &bench.cfg.train);
    bench.update(&mut optimiser, &mut scaler, false).context("after a skipped step")?;
    outcome.figure("fp16_steps_skipped", scaler.skipped);
    Ok(outcome)
}
