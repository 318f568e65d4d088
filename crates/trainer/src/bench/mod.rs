//! `bench`: measures how fast the program is on this machine, and compares that with the machine's matrix product rate.

mod eval;
mod loss;
pub(crate) mod memory;
pub(crate) mod network;
mod operators;
mod stages;

use std::time::Instant;

use anyhow::{Result, ensure};
use clap::{Args, Subcommand};
use cli_kit::outln;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};
use torch_ext::Moment;

pub(crate) use eval::{EvalBenchArgs, bench_eval};
pub(crate) use loss::{LossBenchArgs, bench_loss};
pub(crate) use network::{NetworkBenchArgs, StepBenchArgs, bench_forward, bench_step};
pub(crate) use operators::{OperatorsBenchArgs, bench_operators};

pub(crate) use crate::bench::stages::StageSeconds;
use crate::bench::stages::watch;
use crate::config::Precision;
use crate::data_program::become_data_program;
use crate::experiment::Machine;
use crate::train::tell_processors;

/// What to benchmark.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Data loading: preparing training samples (needs no libtorch when run through `cargo xtask bench data`)
    Data {
        /// See `data bench --help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<std::ffi::OsString>,
    },
    /// Training steps: forward, losses, backward, update
    Step(StepBenchArgs),
    /// Count of the libtorch operators in a training step
    Operators(OperatorsBenchArgs),
    /// Inference of the network alone, with one image per expression
    Forward(NetworkBenchArgs),
    /// Inference for expressions about one image, from text to masks at the image's resolution
    Eval(EvalBenchArgs),
    /// The consistency loss (CPCL), forward and backward pass
    Loss(LossBenchArgs),
}

/// Runs a benchmark.
pub(crate) fn bench(what: &Bench) -> Result<()> {
    match what {
        Bench::Data { args } => become_data_program(
            &std::iter::once("bench".into()).chain(args.iter().cloned()).collect::<Vec<_>>(),
        ),
        Bench::Step(args) => bench_step(args),
        Bench::Operators(args) => bench_operators(args),
        Bench::Forward(args) => bench_forward(args),
        Bench::Eval(args) => bench_eval(args),
        Bench::Loss(args) => bench_loss(args),
    }
}

/// Number of warm-up and timed runs.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Repeats {
    /// Number of timed runs
    #[arg(long, default_value_t = 7)]
    pub(crate) repeats: usize,
    /// Number of warm-up runs, which are not timed
    #[arg(long, default_value_t = 2)]
    pub(crate) warm_up: usize,
}

/// Options of all benchmarks.
#[derive(Debug, Clone, Args)]
pub(crate) struct Timing {
    #[command(flatten)]
    repeats: Repeats,
    /// Print the results as one JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: Machine,
}

/// Times of repeated runs.
#[derive(Debug)]
pub(crate) struct Measured {
    /// Seconds of each run, ascending.
    seconds: Vec<f64>,
    /// Mean seconds per run in each stage; on a GPU, measured in device time.
    pub(crate) stages: StageSeconds,
}

impl Measured {
    pub(crate) fn median(&self) -> f64 {
        let middle = self.seconds.len() / 2;
        match self.seconds.len() % 2 {
            0 => (self.seconds[middle - 1] + self.seconds[middle]) / 2.0,
            _ => self.seconds[middle],
        }
    }

    fn least(&self) -> f64 {
        self.seconds[0]
    }

    fn most(&self) -> f64 {
        self.seconds[self.seconds.len() - 1]
    }
}

/// Where host and device synchronise, so that a run's wall-clock time includes its work on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Synchronisation with the device before and after every run.
    Synchronised,
    /// Each run itself waits for the run before it, so that the device always has queued work.
    Pipelined,
}

impl Repeats {
    /// Times repeated calls of `work`, which must not leave unneeded work on the device's queue.
    pub(crate) fn measure(
        self,
        pace: Pace,
        device: Device,
        mut work: impl FnMut() -> Result<()>,
    ) -> Result<Measured> {
        ensure!((1..=1_000_000).contains(&self.repeats), "--repeats must be 1 to 1,000,000");
        ensure!(self.warm_up <= 1_000_000, "--warm-up must be at most 1,000,000");
        for _ in 0..self.warm_up {
            work()?;
        }
        let mut seconds = Vec::with_capacity(self.repeats);
        let wait = || (pace == Pace::Synchronised).then(|| synchronize(device));
        let mut timed = || -> Result<()> {
            wait();
            let started = Instant::now();
            work()?;
            wait();
            seconds.push(started.elapsed().as_secs_f64());
            Ok(())
        };
        let (watched, mut stages) = watch(device, || (0..self.repeats).try_for_each(|_| timed()));
        watched?;
        for (_, total) in &mut stages {
            *total /= self.repeats as f64;
        }
        seconds.sort_by(f64::total_cmp);
        Ok(Measured { seconds, stages })
    }
}

pub(crate) fn synchronize(device: Device) {
    if let Device::Cuda(index) = device {
        tch::Cuda::synchronize(index as i64);
    }
}

/// Achievable peak rate of the device: floating-point operations per second of a large matrix product in a precision, the
/// best of several.
pub(crate) fn matmul_rate(device: Device, precision: Precision) -> Result<f64> {
    precision.apply()?;
    // On a GPU a small product is over too soon to be timed.
    let (side, in_a_row) = if device.is_cuda() { (8192, 4) } else { (2048, 1) };
    let square = || Tensor::randn([side, side], (Kind::Float, device)).to_kind(precision.kind());
    let (a, b) = (square(), square());
    let mut best = f64::INFINITY;
    let begun = Instant::now();
    for round in 0..10 {
        // Slow devices need fewer rounds: their times vary less from product to product.
        if round >= 2 && begun.elapsed().as_secs_f64() > 1.0 {
            break;
        }
        let started = Moment::now(device)?;
        for _ in 0..in_a_row {
            drop(torch_ext::layers::linear(&a, &b, None));
        }
        best = best.min(started.seconds_to(&Moment::now(device)?)? / f64::from(in_a_row));
    }
    Ok(2.0 * (side as f64).powi(3) / best)
}

/// Results of a benchmark, to be printed.
#[derive(Debug)]
struct BenchReport<'a> {
    /// Name and settings of the benchmark.
    head: Value,
    measured: &'a Measured,
    /// Samples per run.
    samples: usize,
    /// Floating-point operations per run.
    flops: u64,
    device: Device,
    precision: Precision,
    peak_mib: f64,
}

impl BenchReport<'_> {
    fn print(&self, as_json: bool) -> Result<()> {
        let Self { measured, samples, flops, device, .. } = *self;
        let (median, rate) = (measured.median(), flops as f64 / measured.median());
        let peak = matmul_rate(device, self.precision)?;
        let threads = tch::get_num_threads();
        let dtype = self.precision.measured_kind(device)?;
        tell_processors(threads.max(1) as usize);
        if as_json {
            let stages: serde_json::Map<String, Value> =
                measured.stages.iter().map(|(name, seconds)| ((*name).to_owned(), json!(seconds))).collect();
            let mut report = self.head.clone();
            let figures = json!({
                "median_s": median, "min_s": measured.least(), "max_s": measured.most(),
                "repeats": measured.seconds.len(), "samples_per_s": samples as f64 / median,
                "peak_rss_mib": self.peak_mib, "flops": flops, "gflops_per_s": rate / 1e9,
                "matmul_gflops_per_s": peak / 1e9, "matmul_share": rate / peak, "threads": threads, "dtype": dtype,
                "device": format!("{device:?}"), "stages": stages,
                "cpu": cpu_model(), "cpu_kernels": torch_ext::cpu_kernels()?,
            });
            if let (Some(report), Value::Object(figures)) = (report.as_object_mut(), figures) {
                report.extend(figures);
            }
            outln!("{report:#}");
            return Ok(());
        }
        let head = self.head.as_object().into_iter().flatten();
        let head: Vec<String> = head.map(|(key, value)| format!("{key} {}", plain(value))).collect();
        outln!("{}", head.join(", "));
        outln!("{device:?}, {threads} threads, products in {dtype}");
        if device == Device::Cpu {
            outln!("{}; {}", cpu_model(), torch_ext::cpu_kernels()?);
        }
        outln!(
            "{median:.4} s, median of {} ({:.4} to {:.4}); {:.3} samples/s; peak memory {:.0} MiB",
            measured.seconds.len(),
            measured.least(),
            measured.most(),
            samples as f64 / median,
            self.peak_mib
        );
        outln!(
            "{:.1} GFLOP, {:.1} GFLOP/s, {:.0} % of a matrix product's {:.1}",
            flops as f64 / 1e9,
            rate / 1e9,
            100.0 * rate / peak,
            peak / 1e9
        );
        for (name, seconds) in &measured.stages {
            outln!("  {name:16}{seconds:>10.4} s  {:>5.1} %", 100.0 * seconds / median);
        }
        Ok(())
    }
}

/// The CPU's name, as the system gives it.
fn cpu_model() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = info.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split_once(": "))
        .map_or_else(|| "unknown CPU".to_owned(), |(_, name)| name.to_owned())
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
