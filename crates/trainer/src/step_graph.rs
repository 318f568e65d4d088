//! Training steps as a CUDA graph: captured once, then replayed with one call instead of thousands of kernel launches.

use anyhow::{Result, ensure};
use refcoco::Batch;
use tch::{Kind, Tensor};
use torch_ext::{Adam, CudaGraph, Download};

use crate::batch::TrainTensors;
use crate::precision::LossScaler;
use crate::step::{Computed, QueuedStep, Steps, Varying};

/// Ordinary steps before the capture, in which libraries choose their algorithms and allocate their workspaces.
const WARM_UP: u32 = 3;

/// Steps of a run that are replayed from a captured CUDA graph.
#[derive(Debug, Default)]
pub(crate) struct GraphedSteps {
    done: u32,
    recorded: Option<Recorded>,
}

/// A captured step and the tensors that it reads and writes.
#[derive(Debug)]
struct Recorded {
    graph: CudaGraph,
    inputs: TrainTensors,
    /// Factor that multiplies the learning rates, a float32 scalar.
    rate: Tensor,
    /// The loss scale, a float32 scalar.
    scale: Tensor,
    /// 1 after a failed step, see [`record`]. The graph reads and writes it, so it must live as long.
    _sticky: Option<Tensor>,
    names: Vec<&'static str>,
    values: Tensor,
    failed: Tensor,
}

impl GraphedSteps {
    /// Call this before the first step, and before any other work that follows a step on the device.
    ///
    /// # Errors
    /// When steps cannot be captured: without an NVIDIA GPU, with several processes, or with activation checkpointing.
    pub(crate) fn prepare(steps: &Steps<'_>) -> Result<Self> {
        ensure!(steps.device.is_cuda(), "--cuda-graphs is for NVIDIA GPUs");
        ensure!(steps.processes.size() == 1, "--cuda-graphs is for one process");
        ensure!(!steps.recompute, "--cuda-graphs and --recompute exclude each other");
        // A captured graph needs the same number of images in every batch.
        ensure!(steps.cfg.data.refs_per_image == 1, "--cuda-graphs needs data.refs_per_image=1");
        CudaGraph::prepare(steps.device)?;
        Ok(Self::default())
    }

    /// Queues a step as [`Steps::queue`] does, from the captured graph where possible.
    pub(crate) fn queue(
        &mut self,
        steps: &Steps<'_>,
        adam: &mut Adam,
        scaler: &mut LossScaler,
        batch: &Batch,
        factor: f64,
        before: Option<&QueuedStep>,
    ) -> Result<QueuedStep> {
        if self.done < WARM_UP {
            self.done += 1;
            return steps.queue(adam, scaler, batch, factor, before);
        }
        if self.recorded.is_none() {
            self.recorded = Some(record(steps, adam, scaler, batch)?);
        }
        match &self.recorded {
            Some(recorded) if recorded.inputs.n() == batch.n as i64 => {
                recorded.repeat(steps, scaler, batch, factor)
            }
            // A batch of another size, because unreadable samples were left out.
            _ => steps.queue(adam, scaler, batch, factor, before),
        }
    }
}

fn record(steps: &Steps<'_>, adam: &mut Adam, scaler: &LossScaler, batch: &Batch) -> Result<Recorded> {
    let inputs = TrainTensors::new(batch, steps.device, steps.model.store().kind())?;
    let place = (Kind::Float, steps.device);
    let (rate, scale) = (Tensor::ones([], place), Tensor::ones([], place));
    // After a failed step no later step updates the parameters, and the run ends when the host reads the result. With float16 a
    // step may fail, and the host reads each result.
    let sticky = (!scaler.may_skip()).then(|| Tensor::zeros([1], place));
    let counters = steps.model.store().counts();
    let (graph, computed) = CudaGraph::record(|| -> Result<Computed> {
        let varying = Varying::Device { rate: &rate, scale: &scale };
        let computed = steps.compute(adam, &inputs, varying, sticky.as_ref())?;
        if let Some(sticky) = &sticky {
            sticky.shallow_clone().copy_(&computed.failed);
        }
        Ok(computed)
    })?;
    // Capturing does not run the step, so its counts are taken back.
    steps.model.store().set_counts(&counters);
    let Computed { names, values, failed } = computed;
    Ok(Recorded { graph, inputs, rate, scale, _sticky: sticky, names, values, failed })
}

impl Recorded {
    fn repeat(
        &self,
        steps: &Steps<'_>,
        scaler: &mut LossScaler,
        batch: &Batch,
        factor: f64,
    ) -> Result<QueuedStep> {
        self.inputs.overwrite(&TrainTensors::new(batch, steps.device, steps.model.store().kind())?);
        let _ = self.rate.shallow_clone().fill_(factor);
        let _ = self.scale.shallow_clone().fill_(scaler.scale());
        self.graph.replay()?;
        for _ in 0..steps.n_parts(batch.n) {
            steps.model.store().count_pass();
        }
        let values = Download::start(&self.values)?;
        QueuedStep::in_flight(self.names.clone(), values, self.failed.shallow_clone(), scaler)
    }
}
