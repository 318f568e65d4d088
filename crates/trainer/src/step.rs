//! One optimiser step, the unit that training repeats and `bench step` times.

use anyhow::{Result, ensure};
use refcoco::Batch;
use talent::{Pass, Stage, Talent, TalentOutput, Triplet};
use tch::{Device, Kind, Tensor};
use torch_ext::{Adam, Download, Lowered, fused};
use tracing::trace_span;

use crate::adapter_responses::AdapterPatches;
use crate::batch::TrainTensors;
use crate::config::{Config, LossConfig};
use crate::distributed::Processes;
use crate::gradient_buckets::GradientBuckets;
use crate::losses::{Inputs, Objective, objective, weighted_terms};
use crate::precision::LossScaler;

/// Result of a step.
#[derive(Debug)]
pub(crate) struct StepReport {
    /// Unweighted loss terms by name, and their weighted sum under `total`.
    pub(crate) losses: Vec<(&'static str, f64)>,
    /// Whether all losses and gradients were finite.
    pub(crate) finite: bool,
    /// Whether the parameters were updated.
    pub(crate) updated: bool,
}

/// A step that is queued on the device.
#[derive(Debug)]
pub(crate) enum QueuedStep {
    /// The device may still be computing it.
    InFlight {
        /// Names of the losses.
        names: Vec<&'static str>,
        /// The losses, then 1 if the parameters were not updated, otherwise 0.
        values: Download,
        /// One float32 on the device: 1 if this step or an earlier one did not update the parameters, otherwise 0.
        failed: Tensor,
    },
    /// The step is finished, and its result is known.
    Known(StepReport),
}

impl QueuedStep {
    /// A step without samples.
    pub(crate) fn empty() -> Self {
        Self::Known(StepReport { losses: Vec::new(), finite: true, updated: false })
    }

    /// A queued step. With loss scaling this waits for the step, because the next loss scale depends on its result.
    pub(crate) fn in_flight(
        names: Vec<&'static str>,
        values: Download,
        failed: Tensor,
        scaler: &mut LossScaler,
    ) -> Result<Self> {
        let step = Self::InFlight { names, values, failed };
        if !scaler.may_skip() {
            return Ok(step);
        }
        let report = step.report()?;
        scaler.update(report.updated);
        Ok(Self::Known(report))
    }

    /// Waits for the step, but not for work that was queued after it.
    pub(crate) fn report(self) -> Result<StepReport> {
        let (names, values) = match self {
            Self::InFlight { names, values, .. } => (names, values),
            Self::Known(report) => return Ok(report),
        };
        let mut values = Vec::<f64>::try_from(values.wait()?)?;
        let updated = values.pop() == Some(0.0);
        let finite = updated && values.iter().all(|value| value.is_finite());
        Ok(StepReport { losses: names.into_iter().zip(values).collect(), finite, updated })
    }
}

/// Results of a step on the device.
#[derive(Debug)]
pub(crate) struct Computed {
    /// Names of the losses.
    pub(crate) names: Vec<&'static str>,
    /// float64: the losses, then `failed`.
    pub(crate) values: Tensor,
    /// One float32: 1 if this step or an earlier one did not update the parameters, otherwise 0.
    pub(crate) failed: Tensor,
}

/// Learning-rate factor and loss scale, which change from step to step.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Varying<'a> {
    /// Numbers on the host.
    Host {
        /// Factor that multiplies the learning rates.
        rate: f64,
        /// The loss scale, see [`LossScaler::scale`].
        scale: f64,
    },
    /// float32 scalars on the device, for a step that is captured in a CUDA graph and replayed with other numbers.
    Device {
        /// Factor that multiplies the learning rates.
        rate: &'a Tensor,
        /// The loss scale.
        scale: &'a Tensor,
    },
}

impl Varying<'_> {
    fn scaled(self, loss: &Tensor) -> Tensor {
        match self {
            Self::Host { scale: 1.0, .. } => loss.shallow_clone(),
            Self::Host { scale, .. } => loss * scale,
            Self::Device { scale, .. } => loss * scale,
        }
    }

    /// Divides gradients by the loss scale, in place. Returns one float32 on their device: 1 if an entry is not finite,
    /// otherwise 0.
    fn unscale(self, gradients: &[Tensor], device: Device) -> Result<Tensor> {
        let found = Tensor::zeros([1], (Kind::Float, device));
        let inverse = match self {
            Self::Host { scale, .. } => Tensor::full([1], 1.0 / scale, (Kind::Float, device)),
            Self::Device { scale, .. } => scale.reciprocal().view([1]),
        };
        fused::unscale(gradients, &found, &inverse)?;
        Ok(found)
    }
}

/// What all steps of a run share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Steps<'a> {
    pub(crate) model: &'a Talent,
    pub(crate) cfg: &'a Config,
    pub(crate) device: Device,
    pub(crate) processes: &'a Processes,
    /// Activation checkpointing: whether the image encoder's blocks are recomputed in the backward pass, to save memory.
    pub(crate) recompute: bool,
    /// All-reduces gradients during the backward pass; cannot be combined with `recompute`.
    pub(crate) buckets: Option<&'a GradientBuckets>,
}

impl<'a> Steps<'a> {
    /// Steps without activation checkpointing, whose gradients are all-reduced after the backward pass. Turns on SyncBatchNorm.
    pub(crate) fn plain(
        model: &'a Talent,
        cfg: &'a Config,
        device: Device,
        processes: &'a Processes,
    ) -> Self {
        processes.sync_batch_norms(model);
        Self { model, cfg, device, processes, recompute: false, buckets: None }
    }

    /// Queues forward pass, losses, backward pass and update; there is no update if a gradient is not finite. Does not
    /// synchronise with a GPU: reading the report after the next step is queued keeps the GPU busy. With loss scaling the
    /// result is known on return, because the next scale depends on it.
    ///
    /// - batch: the share of this rank; all ranks end with the same gradients, losses and parameters
    /// - factor: multiplies the learning rates
    /// - before: the previous step, if its report is not known yet; if it failed, this step does not update the parameters
    ///   either
    pub(crate) fn queue(
        &self,
        adam: &mut Adam,
        scaler: &mut LossScaler,
        batch: &Batch,
        factor: f64,
        before: Option<&QueuedStep>,
    ) -> Result<QueuedStep> {
        let Self { model, device, .. } = *self;
        let whole =
            trace_span!("data").in_scope(|| TrainTensors::new(batch, device, model.store().kind()))?;
        let before = match before {
            Some(QueuedStep::InFlight { failed, .. }) => Some(failed),
            _ => None,
        };
        let varying = Varying::Host { rate: factor, scale: scaler.scale() };
        let Computed { names, values, failed } = self.compute(adam, &whole, varying, before)?;
        QueuedStep::in_flight(names, Download::start(&values)?, failed, scaler)
    }

    /// Number of parts in which a batch of n samples goes through the network, one after the other (gradient accumulation).
    pub(crate) fn n_parts(&self, n: usize) -> usize {
        let accumulate = self.cfg.train.accumulate;
        if n.is_multiple_of(accumulate) { accumulate } else { 1 }
    }

    /// The part of a step that runs on the device, without synchronisation with the host.
    ///
    /// - before: one float32 on the device, 1 if an earlier step failed
    pub(crate) fn compute(
        &self,
        adam: &mut Adam,
        whole: &TrainTensors,
        varying: Varying<'_>,
        before: Option<&Tensor>,
    ) -> Result<Computed> {
        let Self { cfg, device, processes, .. } = *self;
        let n_parts = self.n_parts(whole.n() as usize);
        let part_size = whole.n() / n_parts as i64;
        let mut sums: Vec<(&'static str, Tensor)> = Vec::new();
        adam.zero_grad()?;
        for part in 0..n_parts as i64 {
            if part + 1 == n_parts as i64
                && let Some(buckets) = self.buckets
            {
                buckets.begin();
            }
            let part = whole.part(part * part_size, part_size);
            for (name, value) in self.add_gradients(&part, |loss| varying.scaled(&(loss / n_parts as f64)))? {
                match sums.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, sum)) => *sum += value,
                    None => sums.push((name, value)),
                }
            }
        }
        let _span = trace_span!("optimiser").entered();
        match self.buckets {
            Some(buckets) => buckets.finish()?,
            None => processes.average_gradients(adam.grads())?,
        }
        let mut failed = varying.unscale(&adam.grads(), device)?;
        if let Some(before) = before {
            failed = failed.maximum(before);
        }
        if cfg.train.clip_norm > 0.0 {
            let _ = adam.clip(cfg.train.clip_norm);
        }
        match varying {
            Varying::Host { rate, .. } => adam.step_unless(rate, Some(&failed))?,
            Varying::Device { rate, .. } => adam.step_by_device(rate, &failed)?,
        }
        let names: Vec<&str> = sums.iter().map(|(name, _)| *name).collect();
        let values = sums.into_iter().map(|(_, sum)| sum / n_parts as f64).chain([failed.shallow_clone()]);
        let values: Vec<Tensor> = values.map(|value| value.to_kind(Kind::Double).view([])).collect();
        Ok(Computed { names, values: processes.all_reduce_mean(Tensor::stack(&values, 0))?, failed })
    }

    /// Forward and backward pass, which accumulates gradients. Returns the loss terms, and the total before `scaled`.
    fn add_gradients(
        &self,
        part: &TrainTensors,
        scaled: impl FnOnce(&Tensor) -> Tensor,
    ) -> Result<Vec<(&'static str, Tensor)>> {
        let Self { cfg, recompute, .. } = *self;
        let mut terms = Vec::new();
        let scaled_loss = |objective: Objective| {
            terms = objective.terms;
            terms.push(("total", objective.total.detach()));
            scaled(&objective.total)
        };
        if recompute {
            self.recompute(part, |inputs| scaled_loss(objective(inputs, &cfg.loss)))?;
        } else {
            let total = scaled_loss(self.forward(part, objective)?);
            trace_span!("backward").in_scope(|| total.backward());
        }
        Ok(terms)
    }

    /// The loss terms that are switched on, with their weights and graphs, after a forward pass without activation checkpointing.
    pub(crate) fn weighted_terms(&self, part: &TrainTensors) -> Result<Vec<(&'static str, f64, Tensor)>> {
        self.forward(part, weighted_terms)
    }

    /// Forward and backward pass with activation checkpointing.
    fn recompute(&self, part: &TrainTensors, loss: impl FnOnce(&Inputs<'_>) -> Tensor) -> Result<()> {
        let Self { model, cfg, processes, .. } = *self;
        can_recompute(&cfg.loss)?;
        cfg.train.precision.apply()?;
        let (image_of, products) = (image_of(part), cfg.train.precision.kind());
        let loss = |output: &TalentOutput| loss(&Inputs { output, adapters: &[], batch: part, processes });
        model.train_recomputing(&part.images, image_of.as_ref(), &triplet(part), products, loss)?;
        Ok(())
    }

    /// A forward pass, and what `losses` makes of it.
    fn forward<T>(
        &self,
        part: &TrainTensors,
        losses: impl FnOnce(&Inputs<'_>, &LossConfig) -> T,
    ) -> Result<T> {
        let Self { model, cfg, device, processes, .. } = *self;
        let image_of = image_of(part);
        let of_adapters = cfg.loss.in_need(|needs| needs.adapters);
        let patches = (!of_adapters.is_empty()).then(AdapterPatches::default);
        let _autocast = cfg.train.precision.autocast(device)?;
        // Weights that are cast together also get their gradients together, at the end of the backward pass. Buckets need
        // them earlier.
        let _lowered = match self.buckets {
            Some(_) => None,
            None => Some(Lowered::weights(cfg.train.precision.kind())?),
        };
        let observe = |stage: Stage, value: &Tensor| {
            if let Some(patches) = &patches {
                patches.observe(stage, value);
            }
        };
        let pass = Pass { image_of: image_of.as_ref(), observe: &observe, ..Pass::TRAIN };
        let output = model.forward(&part.images, triplet(part), &pass);
        let adapters = patches.as_ref().map(|patches| patches.responses(model, &output.words, &part.words));
        let adapters: Vec<Tensor> = adapters.into_iter().flatten().map(|(_, response)| response).collect();
        Ok(losses(&Inputs { output: &output, adapters: &adapters, batch: part, processes }, &cfg.loss))
    }
}

/// Checks that every loss can be computed with activation checkpointing.
pub(crate) fn can_recompute(cfg: &LossConfig) -> Result<()> {
    // Recomputed blocks have their own autograd graphs, which a loss of the head does not reach.
    let of_adapters = cfg.in_need(|needs| needs.adapters);
    ensure!(
        of_adapters.is_empty(),
        "loss.{} needs the adapters' activations: train without --recompute",
        of_adapters.join(", loss.")
    );
    Ok(())
}

/// The token ids of a part.
fn triplet(part: &TrainTensors) -> Triplet<'_> {
    Triplet { words: &part.words, positives: &part.positives, negatives: &part.negatives }
}

/// The image of each sentence, if sentences share images.
fn image_of(part: &TrainTensors) -> Option<Tensor> {
    part.shares_images().then(|| part.image_of())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::network::random_batch;
    use crate::encoder_input::sample_shape;
    use crate::optim::adam;
    use crate::start_values::StartValues;

    /// Copies of the trained parameters.
    fn parameters(model: &Talent) -> Vec<Tensor> {
        model.trainable().into_iter().map(|(_, tensor)| tensor.detach().copy()).collect()
    }

    #[test]
    fn numbers_on_the_device_do_what_those_of_the_host_do() {
        let mut cfg = Config::tiny();
        cfg.model.decoder.dropout = 0.0;
        let processes = Processes::default();
        let shape = sample_shape(&cfg.model);
        let inputs =
            TrainTensors::new(&random_batch(2, shape, refcoco::VOCABULARY), Device::Cpu, Kind::Float)
                .unwrap();
        let start = StartValues::drawn(&cfg.model);
        let after = |on_device: bool| {
            let model = start.model(&cfg.model, Kind::Float);
            let mut adam = adam(&model, &cfg.train);
            let steps = Steps::plain(&model, &cfg, Device::Cpu, &processes);
            // Only one step: in a second one Adam would turn rounding noise into full-size updates.
            let (rate, scale) = (Tensor::from(0.5_f32), Tensor::from(65536.0_f32));
            let varying = match on_device {
                true => Varying::Device { rate: &rate, scale: &scale },
                false => Varying::Host { rate: 0.5, scale: 65536.0 },
            };
            steps.compute(&mut adam, &inputs, varying, None).unwrap();
            parameters(&model)
        };
        let (host, device) = (after(false), after(true));
        for (a, b) in host.iter().zip(&device) {
            // Tolerance: the last digit of a parameter, and that of a learning rate in float32.
            let excess = f64::try_from(((a - b).abs() - a.abs() * 1.2e-7).max()).unwrap();
            assert!(excess <= 2e-9, "{excess:e}");
        }
    }

    #[test]
    fn a_step_behind_a_failed_one_leaves_the_parameters_alone() {
        let cfg = Config::tiny();
        let model = Talent::seeded(&cfg.model, Device::Cpu, Kind::Float, 1).unwrap();
        let (mut adam, processes) = (adam(&model, &cfg.train), Processes::default());
        let mut scaler = LossScaler::new(cfg.train.precision);
        let steps = Steps::plain(&model, &cfg, Device::Cpu, &processes);
        let shape = sample_shape(&cfg.model);
        let good = random_batch(2, shape, refcoco::VOCABULARY);
        let mut bad = random_batch(2, shape, refcoco::VOCABULARY);
        bad.images[7] = f32::NAN;
        let start = parameters(&model);
        let same = |others: &[Tensor]| parameters(&model).iter().zip(others).all(|(a, b)| a.equal(b));

        let failed = steps.queue(&mut adam, &mut scaler, &bad, 1.0, None).unwrap();
        let behind = steps.queue(&mut adam, &mut scaler, &good, 1.0, Some(&failed)).unwrap();
        let report = failed.report().unwrap();
        assert!(!report.finite && !report.updated);
        assert!(!behind.report().unwrap().updated);
        assert!(same(&start));

        // By now the running statistics of the batch norms contain NaN. Training uses batch statistics, which do not.
        let before = steps.queue(&mut adam, &mut scaler, &good, 1.0, None).unwrap();
        let report =
            steps.queue(&mut adam, &mut scaler, &good, 1.0, Some(&before)).unwrap().report().unwrap();
        assert!(report.finite && report.updated && before.report().unwrap().updated);
        assert!(!same(&start));
    }

    #[test]
    fn gradients_are_unscaled_and_checked() {
        let scale = Tensor::from(65536.0_f32);
        for varying in [
            Varying::Host { rate: 1.0, scale: 65536.0 },
            Varying::Device { rate: &Tensor::from(1.0_f32), scale: &scale },
        ] {
            let good = Tensor::from_slice(&[65536.0_f32]);
            let found = |gradient: &Tensor| {
                let found = varying.unscale(std::slice::from_ref(gradient), Device::Cpu).unwrap();
                f64::try_from(found).unwrap()
            };
            assert_eq!(found(&good), 0.0);
            assert_eq!(f64::try_from(good).unwrap(), 1.0);
            assert_eq!(found(&Tensor::from_slice(&[f32::NAN])), 1.0);
        }
    }
}
