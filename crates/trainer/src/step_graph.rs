//! Training steps as a CUDA graph: recorded once, then asked for by one call instead of thousands.

use anyhow::{Result, ensure};
use refcoco::Batch;
use tch::{Kind, Tensor};
use torch_ext::{Adam, CudaGraph, Download};

use crate::batch::TrainTensors;
use crate::precision::LossScaler;
use crate::step::{Computed, QueuedStep, Steps, Varying};

/// Steps that go as usual before one is recorded: libraries choose their algorithms and take their workspaces in them.
const WARM_UP: u32 = 3;

/// Steps of a run that are repeated from a recording.
#[derive(Debug, Default)]
pub(crate) struct GraphedSteps {
    done: u32,
    recorded: Option<Recorded>,
}

/// A recorded step and the tensors it reads and writes.
#[derive(Debug)]
struct Recorded {
    graph: CudaGraph,
    inputs: TrainTensors,
    /// Factor on the learning rates, a float32 scalar.
    rate: Tensor,
    /// The loss scale, a float32 scalar.
    scale: Tensor,
    names: Vec<&'static str>,
    values: Tensor,
    failed: Tensor,
}

impl GraphedSteps {
    /// To be called before the first step, and before anything that is to follow one on the device.
    ///
    /// # Errors
    /// When steps of this kind cannot be recorded.
    pub(crate) fn prepare(steps: &Steps<'_>) -> Result<Self> {
        ensure!(steps.device.is_cuda(), "--cuda-graphs is for NVIDIA GPUs");
        ensure!(steps.processes.size() == 1, "--cuda-graphs is for one process");
        ensure!(!steps.recompute, "--cuda-graphs and --recompute exclude each other");
        CudaGraph::prepare(steps.device)?;
        Ok(Self::default())
    }

    /// As [`Steps::queue`].
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
            // A batch of another size, from which unreadable samples were left out.
            _ => steps.queue(adam, scaler, batch, factor, before),
        }
    }
}

fn record(steps: &Steps<'_>, adam: &mut Adam, scaler: &LossScaler, batch: &Batch) -> Result<Recorded> {
    let inputs = TrainTensors::new(batch, steps.device, steps.model.store().kind())?;
    let place = (Kind::Float, steps.device);
    let (rate, scale) = (Tensor::ones([], place), Tensor::ones([], place));
    // Once a step has failed, none behind it is taken; the run ends when the host learns of it. With float16 a step may fail,
    // and the host looks at each.
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
    // Recording is not doing.
    steps.model.store().set_counts(&counters);
    let Computed { names, values, failed } = computed;
    Ok(Recorded { graph, inputs, rate, scale, names, values, failed })
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
        QueuedStep::coming(self.names.clone(), values, self.failed.shallow_clone(), scaler)
    }
}
