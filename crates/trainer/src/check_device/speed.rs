//! How fast the network trains and evaluates.

use std::path::PathBuf;

use anyhow::Result;
use refcoco::Batch;
use talent::{forward_flops, train_flops};
use tch::{Kind, Tensor};

use super::part::{Outcome, Setting};
use crate::batch::EvalTensors;
use crate::bench::memory::peak_mib;
use crate::bench::network::{Way, measure_steps, random_batch};
use crate::bench::{Measured, Pace, Repeats, matmul_rate};
use crate::config::{Config, Precision, Source, load};
use crate::distributed::Processes;
use crate::evaluate::{probabilities, values};
use crate::experiment::Experiment;

/// The network with random weights, and a random batch. The preset is base, or tiny on a CPU or with `--quick`.
pub(super) struct Network {
    pub(super) experiment: Experiment,
    pub(super) batch: Batch,
}

impl Network {
    pub(super) fn new(setting: &Setting, precision: Precision, batch_size: usize) -> Result<Self> {
        Self::changed(setting, precision, batch_size, |_| {})
    }

    fn changed(
        setting: &Setting,
        precision: Precision,
        batch_size: usize,
        change: impl FnOnce(&mut Config),
    ) -> Result<Self> {
        let preset = if setting.small() { "tiny" } else { "base" };
        let mut cfg: Config =
            load(&Source { preset: Some(preset.into()), data_root: PathBuf::new(), ..Source::default() })?;
        cfg.train.precision = precision;
        // Measure one process with one forward and backward pass per step.
        cfg.train.accumulate = 1;
        change(&mut cfg);
        let experiment = Experiment::with_datasets(cfg, setting.device, Vec::new())?;
        let batch = random_batch(batch_size, experiment.shape(), refcoco::VOCABULARY);
        Ok(Self { experiment, batch })
    }

    pub(super) fn measure(&self, processes: &Processes, way: Way, repeats: Repeats) -> Result<Measured> {
        measure_steps(&self.experiment, processes, &self.batch, way, repeats)
    }
}

pub(super) fn repeats(setting: &Setting) -> Repeats {
    if setting.small() { Repeats { repeats: 2, warm_up: 1 } } else { Repeats { repeats: 12, warm_up: 5 } }
}

fn steps(setting: &Setting, precision: Precision, way: Way) -> Result<Outcome> {
    let n = if setting.small() { 4 } else { 32 };
    let network = Network::new(setting, precision, n)?;
    let mut outcome = Outcome::default();
    outcome.figure("config", network.experiment.cfg.name.clone());
    outcome.figure("batch", n);
    let measured = network.measure(&Processes::default(), way, repeats(setting))?;
    let median = measured.median();
    outcome.figure("step_ms", 1e3 * median);
    outcome.figure("samples_per_s", n as f64 / median);
    outcome.figure("peak_mib", peak_mib(setting.device)?);
    let cfg = &network.experiment.cfg;
    let flops = train_flops(&cfg.model, cfg.train.regime.into()).total() * n as u64;
    let (rate, best) = (flops as f64 / median, matmul_rate(setting.device, precision)?);
    outcome.figure("tflops", rate / 1e12);
    outcome.figure("matrix_tflops", best / 1e12);
    outcome.figure("share_of_matrix_rate", rate / best);
    Ok(outcome)
}

pub(super) fn bf16(setting: &Setting) -> Result<Outcome> {
    steps(setting, Precision::Bf16, Way::Plain)
}

pub(super) fn fp16(setting: &Setting) -> Result<Outcome> {
    steps(setting, Precision::Fp16, Way::Plain)
}

pub(super) fn tf32(setting: &Setting) -> Result<Outcome> {
    steps(setting, Precision::Tf32, Way::Plain)
}

pub(super) fn fp32(setting: &Setting) -> Result<Outcome> {
    steps(setting, Precision::Fp32, Way::Plain)
}

pub(super) fn recompute(setting: &Setting) -> Result<Outcome> {
    steps(setting, Precision::Bf16, Way::Recompute)
}

/// Steps replayed from a CUDA graph. The first batch size, 4, is one GPU's share of the official 32 on eight GPUs.
pub(super) fn graphs(setting: &Setting) -> Result<Outcome> {
    if !setting.device.is_cuda() {
        return Ok(Outcome::not_applicable("graphs are for NVIDIA GPUs"));
    }
    let mut outcome = Outcome::default();
    for n in [4, 1, 32] {
        let network = Network::new(setting, Precision::Bf16, n)?;
        match network.measure(&Processes::default(), Way::Graph, repeats(setting)) {
            Ok(measured) => {
                outcome.figure(&format!("samples_per_s_{n}"), n as f64 / measured.median());
            }
            Err(error) => outcome.require(false, || format!("batch {n}: {error:#}")),
        }
    }
    outcome.figure("peak_mib", peak_mib(setting.device)?);
    Ok(outcome)
}

/// Optional optimisations in bf16, each by itself, and all together with a CUDA graph.
pub(super) fn options(setting: &Setting) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let n = if setting.small() { 4 } else { 32 };
    let graph = if setting.device.is_cuda() { Way::Graph } else { Way::Plain };
    let ways = [
        ("none", Way::Plain, false, false),
        ("upload_stream", Way::Plain, true, false),
        ("low_precision_tokens", Way::Plain, false, true),
        ("all", graph, true, true),
    ];
    for (name, way, upload_stream, low_precision_tokens) in ways {
        let network = Network::changed(setting, Precision::Bf16, n, |cfg| {
            cfg.model.image.low_precision_tokens = low_precision_tokens;
        })?;
        torch_ext::upload_beside(upload_stream);
        torch_ext::reset_peak_device_bytes(setting.device)?;
        let measured = network.measure(&Processes::default(), way, repeats(setting));
        torch_ext::upload_beside(false);
        match measured {
            Ok(measured) => {
                outcome.figure(&format!("{name}_samples_per_s"), n as f64 / measured.median());
                outcome.figure(&format!("{name}_peak_mib"), peak_mib(setting.device)?);
            }
            Err(error) => outcome.require(false, || format!("{name}: {error:#}")),
        }
    }
    Ok(outcome)
}

pub(super) fn evaluation(setting: &Setting) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let n = if setting.small() { 6 } else { 96 };
    for (precision, name) in [(Precision::Bf16, "bf16"), (Precision::Fp32, "fp32")] {
        let Network { experiment, batch } = Network::new(setting, precision, n / 3)?;
        let side = experiment.cfg.model.input_size;
        // Three expressions about each image.
        let image_of: Vec<i64> = (0..n as i64).map(|expression| expression / 3).collect();
        let words = Tensor::from_slice(&batch.words).view([n as i64 / 3, -1]).repeat([3, 1]);
        let tensors = EvalTensors {
            images: Tensor::from_slice(&batch.images)
                .view([n as i64 / 3, 3, side, side])
                .to_device(setting.device),
            image_of: Tensor::from_slice(&image_of).to_device(setting.device),
            words: words.to_kind(Kind::Int64).to_device(setting.device),
        };
        let measured = repeats(setting).measure(Pace::Synchronised, setting.device, || {
            values(probabilities(&experiment, &tensors, precision)?).map(|_| ())
        })?;
        let median = measured.median();
        outcome.figure(&format!("{name}_expressions_per_s"), n as f64 / median);
        let rate = forward_flops(&experiment.cfg.model).total() as f64 * n as f64 / median;
        outcome
            .figure(&format!("{name}_share_of_matrix_rate"), rate / matmul_rate(setting.device, precision)?);
    }
    Ok(outcome)
}
