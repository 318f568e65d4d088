//! The parts of a check, and their outcomes.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Map, Value, json};
use tch::Device;

use super::{
    batches, graphs, launches, loader, losses, machine, masks, recordings, runs, speed, steps, together,
};
use crate::panics::as_errors;

/// One thing to check.
pub(super) struct Part {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    /// Time limit of the part.
    pub(super) limit: Duration,
    /// A part whose results it uses.
    pub(super) needs: Option<&'static str>,
    pub(super) work: fn(&Setting) -> Result<Outcome>,
}

/// Settings of the check, the same for all parts.
#[derive(Debug)]
pub(super) struct Setting {
    pub(super) device: Device,
    /// The device as named on the command line.
    pub(super) device_name: String,
    pub(super) quick: bool,
    pub(super) golden: Option<PathBuf>,
    /// Working folder that all parts share.
    pub(super) work: PathBuf,
}

impl Setting {
    /// Whether to use the small network: at full size a CPU would take minutes per step.
    pub(super) fn small(&self) -> bool {
        self.quick || !self.device.is_cuda()
    }
}

/// How a part ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Passed,
    Failed,
    NotApplicable,
    NoTime,
}

impl Status {
    pub(super) const ALL: [Self; 4] = [Self::Passed, Self::Failed, Self::NotApplicable, Self::NoTime];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::NotApplicable => "not applicable",
            Self::NoTime => "no time",
        }
    }
}

/// What a part found.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    figures: Map<String, Value>,
    problems: Vec<String>,
    remarks: Vec<String>,
    not_applicable: bool,
}

impl Outcome {
    /// The outcome of a part that does not apply to the device.
    pub(super) fn not_applicable(why: &str) -> Self {
        Self { remarks: vec![why.to_owned()], not_applicable: true, ..Self::default() }
    }

    pub(super) fn figure(&mut self, name: &str, value: impl Into<Value>) {
        self.figures.insert(name.to_owned(), value.into());
    }

    /// Adds a remark to the part's message.
    pub(super) fn remark(&mut self, text: impl Into<String>) {
        self.remarks.push(text.into());
    }

    /// Fails the part with this problem unless the condition holds.
    pub(super) fn require(&mut self, holds: bool, problem: impl FnOnce() -> String) {
        if !holds {
            self.problems.push(problem());
        }
    }

    /// Adds a figure, and fails the part if it exceeds a bound or is NaN.
    pub(super) fn at_most(&mut self, name: &str, value: f64, bound: f64) {
        self.figure(name, finite(value));
        self.figure(&format!("{name}_bound"), bound);
        self.require(value <= bound, || format!("{name} is {value:.3e}, allowed {bound:.1e}"));
    }

    fn status(&self) -> Status {
        match (self.not_applicable, self.problems.is_empty()) {
            (true, _) => Status::NotApplicable,
            (_, true) => Status::Passed,
            _ => Status::Failed,
        }
    }
}

/// A number for JSON, which lacks NaN and infinity: these become text.
pub(super) fn finite(value: f64) -> Value {
    if value.is_finite() { json!(value) } else { json!(value.to_string()) }
}

/// Runs a part. An error or panic makes the outcome a failure.
pub(super) fn outcome(part: &Part, setting: &Setting) -> Value {
    let outcome = as_errors(|| (part.work)(setting)).unwrap_or_else(|error| Outcome {
        problems: vec![command_kit::one_line(&error)],
        ..Outcome::default()
    });
    let message = [outcome.problems.as_slice(), &outcome.remarks].concat().join("; ");
    json!({"status": outcome.status().name(), "figures": outcome.figures, "message": message})
}

const fn part(
    name: &'static str,
    limit_s: u64,
    work: fn(&Setting) -> Result<Outcome>,
    about: &'static str,
) -> Part {
    Part { name, about, limit: Duration::from_secs(limit_s), needs: None, work }
}

impl Part {
    const fn after(self, name: &'static str) -> Self {
        Self { needs: Some(name), ..self }
    }
}

/// The part that leaves a trained model.
const TRAINED: &str = "train-kill-resume";

/// All parts, the most important results first.
pub(super) fn parts() -> &'static [Part] {
    const PARTS: &[Part] = &[
        part("machine", 60, machine::machine, "name, driver, copy rate, matrix rate of each dtype"),
        part("recordings-forward", 90, recordings::forward, "forward passes and modules, miniature"),
        part("recordings-losses", 60, recordings::losses, "recorded losses with their input gradients"),
        part("recordings-gradients", 60, recordings::gradients, "the gradient of every parameter"),
        part("recordings-adam", 60, recordings::updates, "parameters and buffers after three steps of Adam"),
        part("recordings-full-size", 240, recordings::full_size, "the models at full size"),
        part("losses", 60, losses::losses, "CPCL, TCCL, segmentation loss against the CPU in float64"),
        part("step-bf16", 60, steps::bf16, "a bf16 step against a float32 one"),
        part("step-fp16", 60, steps::fp16, "an fp16 step against a float32 one"),
        part("recompute", 60, steps::recompute, "activation recomputation against none"),
        part("nan", 60, steps::nan, "a NaN stops a run, and fp16 skips it"),
        part("uninitialised", 60, steps::uninitialised, "a step reads no memory that nobody wrote"),
        part("graphs", 60, graphs::graphs, "recorded steps with a changing rate against usual ones"),
        part("graphs-full-size", 60, graphs::full_size, "the same at full size, twice in one process"),
        part("synchronisations", 60, launches::synchronisations, "a step never makes the host wait"),
        part(TRAINED, 180, runs::kill_and_resume, "200 steps of tiny, killed and resumed"),
        part("evaluation", 60, masks::evaluation, "evaluated masks against the CPU's").after(TRAINED),
        part("predict", 60, masks::predict, "predicted mask against the CPU's").after(TRAINED),
        part("speed-bf16", 90, speed::bf16, "training steps in bf16"),
        part("kernels", 90, launches::kernels, "kernels of a step, and the time between them"),
        part("speed-fp16", 90, speed::fp16, "training steps in fp16"),
        part("speed-tf32", 90, speed::tf32, "training steps in TF32"),
        part("speed-fp32", 90, speed::fp32, "training steps in float32"),
        part("speed-batches", 120, batches::batches, "training steps in bf16, batches of 1 to 128"),
        part("speed-recompute", 90, speed::recompute, "training steps in bf16 with recomputation"),
        part("speed-graphs", 90, speed::graphs, "training steps in bf16 as a CUDA graph"),
        part("speed-options", 90, speed::options, "training steps in bf16 with what may be switched on"),
        part("speed-evaluation", 90, speed::evaluation, "expressions a second"),
        part("loader", 90, loader::loader, "training samples a second on this machine's cores"),
        part("nccl", 90, together::nccl, "one process joins, reduces and trains through NCCL"),
        part("gloo", 90, together::gloo, "one process joins, reduces and trains through Gloo"),
    ];
    PARTS
}
