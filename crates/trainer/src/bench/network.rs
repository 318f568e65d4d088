//! `bench step` and `bench forward`: the network with random weights on random data.

use anyhow::{Result, bail, ensure};
use clap::Args;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use refcoco::{Batch, SampleShape};
use serde_json::json;
use talent::{Pass, forward_flops, train_flops};
use tch::{Device, Kind, Tensor};
use torch_ext::Adam;

use super::memory::peak_mib;
use super::{BenchReport, Measured, Pace, Repeats, Timing};
use crate::batch::TrainTensors;
use crate::config::Config;
use crate::config::ConfigArgs;
use crate::distributed::Processes;
use crate::experiment::Experiment;
use crate::gradient_buckets::GradientBuckets;
use crate::memory_limit::ensure_fits;
use crate::optim::adam;
use crate::precision::LossScaler;
use crate::step::{QueuedStep, Steps};
use crate::step_graph::GraphedSteps;

#[derive(Debug, Args)]
pub(crate) struct NetworkBenchArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Samples per run
    #[arg(long, default_value_t = 2)]
    batch_size: usize,
    #[command(flatten)]
    timing: Timing,
}

#[derive(Debug, Args)]
pub(crate) struct StepBenchArgs {
    #[command(flatten)]
    network: NetworkBenchArgs,
    /// Activation checkpointing: recompute the image encoder's blocks in the backward pass
    #[arg(long)]
    recompute: bool,
    /// Record a step as a CUDA graph and replay it
    #[arg(long, conflicts_with = "recompute")]
    cuda_graphs: bool,
    /// Copy samples to the GPU on a separate CUDA stream
    #[arg(long)]
    upload_stream: bool,
    /// With several processes: all-reduce gradients in buckets during the backward pass
    #[arg(long, conflicts_with_all = ["recompute", "cuda_graphs"])]
    overlap_all_reduce: bool,
}

impl NetworkBenchArgs {
    /// Loads the config and sets up the device.
    fn set_up(&self) -> Result<(Config, Device)> {
        ensure!(self.batch_size > 0, "--batch-size must be positive");
        Ok((self.config.load_for_bench()?, self.timing.machine.set_up()?))
    }

    /// Builds the network and a random batch for it.
    pub(super) fn open_network(&self) -> Result<(Experiment, Batch)> {
        Self::open(self.set_up()?, self.batch_size)
    }

    pub(super) fn prints_json(&self) -> bool {
        self.timing.json
    }

    fn open((cfg, device): (Config, Device), n_samples: usize) -> Result<(Experiment, Batch)> {
        ensure_fits(&cfg.model, n_samples)?;
        let experiment = Experiment::with_datasets(cfg, device, Vec::new())?;
        let batch = random_batch(n_samples, experiment.shape(), experiment.cfg.model.text.vocabulary);
        let batch = sharing_images(batch, experiment.cfg.data.refs_per_image);
        Ok((experiment, batch))
    }
}

/// The same batch with as many samples about each image as there can be at most.
fn sharing_images(mut batch: Batch, refs_per_image: usize) -> Batch {
    let of_image = 3 * batch.shape.input_size * batch.shape.input_size;
    batch.images = batch.images[..batch.n.div_ceil(refs_per_image) * of_image].to_vec().into();
    batch.image_of = (0..batch.n).map(|sample| (sample / refs_per_image) as i64).collect();
    batch
}

/// A batch of random pixels, masks and token ids (up to ten): the network's work does not depend on the values.
pub(crate) fn random_batch(n: usize, shape: SampleShape, vocabulary: i64) -> Batch {
    let mut rng = StdRng::seed_from_u64(0);
    let pixels = n * shape.input_size * shape.input_size;
    let mut ids =
        || -> Vec<i64> { (0..n).flat_map(|_| random_ids(shape.word_len, vocabulary, &mut rng)).collect() };
    let (words, positive_words, negative_words) = (ids(), ids(), ids());
    Batch {
        n,
        shape,
        images: (0..3 * pixels).map(|_| rng.random_range(-2.0..2.0)).collect(),
        image_of: (0..n as i64).collect(),
        masks: (0..pixels).map(|_| f32::from(u8::from(rng.random_bool(0.1)))).collect(),
        words,
        positive_words,
        negative_words,
        valid: vec![1.0; n],
        objects: Vec::new(),
        refs: (0..n).map(|index| format!("random/{index}")).collect(),
        bad: Vec::new(),
    }
}

/// Token ids: a start token, up to eight random words, an end token, zero padding. Start and end have the largest ids, as CLIP's.
fn random_ids(word_len: usize, vocabulary: i64, rng: &mut StdRng) -> Vec<i64> {
    let n_words = word_len.saturating_sub(2).min(8);
    let words = (0..n_words).map(|_| rng.random_range(1..(vocabulary - 2).clamp(2, 40_000)));
    let mut ids: Vec<i64> = std::iter::once(vocabulary - 2).chain(words).collect();
    ids.push(vocabulary - 1);
    ids.resize(word_len, 0);
    ids
}

/// Times training steps.
pub(crate) fn bench_step(args: &StepBenchArgs) -> Result<()> {
    let (cfg, device) = args.network.set_up()?;
    let processes = Processes::join(&cfg, device)?;
    processes.carry_out(|| time_steps(args, (cfg, device), &processes))
}

fn time_steps(
    &StepBenchArgs { network: ref args, recompute, cuda_graphs, upload_stream, overlap_all_reduce }: &StepBenchArgs,
    on: (Config, Device),
    processes: &Processes,
) -> Result<()> {
    let n_processes = processes.size();
    ensure!(
        args.batch_size.is_multiple_of(n_processes),
        "--batch-size {} cannot be divided among {n_processes} processes",
        args.batch_size
    );
    let (experiment, batch) = NetworkBenchArgs::open(on, args.batch_size / n_processes)?;
    torch_ext::upload_beside(upload_stream);
    let way = if recompute {
        Way::Recompute
    } else if cuda_graphs {
        Way::Graph
    } else if overlap_all_reduce {
        Way::Overlap
    } else {
        Way::Plain
    };
    let measured = measure_steps(&experiment, processes, &batch, way, args.timing.repeats)?;
    let cfg = &experiment.cfg;
    // Only this process's samples: the matrix product rate in the report is also that of one process.
    let flops = train_flops(&cfg.model, cfg.train.regime.into()).total() * batch.n as u64;
    if !processes.leads() {
        return Ok(());
    }
    args.report("step", &experiment, &measured, flops)
}

/// How a training step is executed; the results are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Plain,
    /// With activation checkpointing: the image encoder's blocks are recomputed in the backward pass.
    Recompute,
    /// Recorded as a CUDA graph and replayed.
    Graph,
    /// With gradients all-reduced during the backward pass.
    Overlap,
}

/// Queues steps on one batch as a training run does: the results of a step are read after the next step is queued.
pub(crate) struct StepQueue<'a> {
    steps: Steps<'a>,
    batch: &'a Batch,
    adam: Adam,
    scaler: LossScaler,
    graphed: Option<GraphedSteps>,
    buckets: Option<GradientBuckets>,
    before: Option<QueuedStep>,
}

impl<'a> StepQueue<'a> {
    pub(crate) fn new(
        experiment: &'a Experiment,
        processes: &'a Processes,
        batch: &'a Batch,
        way: Way,
    ) -> Result<Self> {
        let Experiment { cfg, device, model, .. } = experiment;
        let plain = Steps::plain(model, cfg, *device, processes);
        let steps = Steps { recompute: way == Way::Recompute, ..plain };
        let graphed = if way == Way::Graph { Some(GraphedSteps::prepare(&steps)?) } else { None };
        let adam = adam(model, &cfg.train);
        let buckets = if way == Way::Overlap { GradientBuckets::new(processes, &adam)? } else { None };
        Ok(Self {
            steps,
            graphed,
            buckets,
            batch,
            adam,
            scaler: LossScaler::new(cfg.train.precision),
            before: None,
        })
    }

    /// Queues a step, then reads the results of the step before it.
    pub(crate) fn step(&mut self) -> Result<()> {
        let Self { steps, batch, adam, scaler, graphed, buckets, before } = self;
        let steps = &Steps { buckets: buckets.as_ref(), ..*steps };
        let step = match graphed {
            Some(graphed) => graphed.queue(steps, adam, scaler, batch, 1.0, before.as_ref())?,
            None => steps.queue(adam, scaler, batch, 1.0, before.as_ref())?,
        };
        match before.replace(step) {
            Some(last) => self.check(last),
            None => Ok(()),
        }
    }

    /// Reads the results of the last step.
    fn finish(mut self) -> Result<()> {
        match self.before.take() {
            Some(last) => self.check(last),
            None => Ok(()),
        }
    }

    fn check(&self, step: QueuedStep) -> Result<()> {
        let report = step.report()?;
        if report.finite || self.scaler.may_skip() {
            return Ok(());
        }
        let spoiled = self.steps.model.trainable().into_iter().filter(|(_, parameter)| {
            let gradient = parameter.grad();
            gradient.defined() && !f64::try_from(gradient.abs().sum(Kind::Double)).is_ok_and(f64::is_finite)
        });
        let spoiled: Vec<String> = spoiled.map(|(name, _)| name).collect();
        bail!(
            "a loss or gradient is not finite: losses {:?}; {} gradients now, the first of {}",
            report.losses,
            spoiled.len(),
            spoiled.first().map_or("none", String::as_str)
        )
    }
}

/// Times training steps on one batch.
pub(crate) fn measure_steps(
    experiment: &Experiment,
    processes: &Processes,
    batch: &Batch,
    way: Way,
    repeats: Repeats,
) -> Result<Measured> {
    let mut queue = StepQueue::new(experiment, processes, batch, way)?;
    let measured = repeats.measure(Pace::Pipelined, experiment.device, || queue.step())?;
    queue.finish()?;
    Ok(measured)
}

/// Times the network's inference alone, without pre- and postprocessing.
pub(crate) fn bench_forward(args: &NetworkBenchArgs) -> Result<()> {
    let (experiment, batch) = NetworkBenchArgs::open(args.set_up()?, args.batch_size)?;
    let Experiment { cfg, device, model, .. } = &experiment;
    let TrainTensors { images, words, .. } = TrainTensors::new(&batch, *device, Kind::Float)?;
    let measured = args.timing.repeats.measure(Pace::Synchronised, *device, || {
        let _guard = cfg.train.precision.autocast(*device)?;
        let logits: Tensor = tch::no_grad(|| model.forward(&images, &words, &Pass::EVAL).logits);
        drop(logits);
        Ok(())
    })?;
    let flops = forward_flops(&cfg.model).total() * args.batch_size as u64;
    args.report("forward", &experiment, &measured, flops)
}

impl NetworkBenchArgs {
    fn report(&self, what: &str, experiment: &Experiment, measured: &Measured, flops: u64) -> Result<()> {
        let device: Device = experiment.device;
        let report = BenchReport {
            head: json!({"bench": what, "config": experiment.cfg.name, "batch_size": self.batch_size}),
            measured,
            samples: self.batch_size,
            flops,
            device,
            precision: experiment.cfg.train.precision,
            peak_mib: peak_mib(device)?,
        };
        report.print(self.timing.json)
    }
}
