//! Exponential moving average (EMA) of the weights, which evaluations and saved models use instead of the last ones.

use anyhow::{Result, ensure};
use talent::Talent;
use tch::Tensor;
use torch_ext::Role;

/// Averages of the trained parameters and of the running statistics.
#[derive(Debug)]
pub(super) struct Average {
    decay: f64,
    /// Name, the model's tensor, and its average.
    tensors: Vec<(String, Tensor, Tensor)>,
}

impl Average {
    /// Starts at the model's present values.
    ///
    /// - decay: share of the average that a step keeps, 0 to below 1
    pub(super) fn new(model: &Talent, decay: f64) -> Self {
        let entries = model.store().entries().into_iter();
        let moves = entries.filter(|(_, entry)| match entry.role {
            Role::Parameter => entry.tensor.requires_grad(),
            Role::Buffer => entry.tensor.is_floating_point(),
        });
        let tensors = moves.map(|(name, entry)| {
            let average = tch::no_grad(|| entry.tensor.detach().copy());
            (name, entry.tensor, average)
        });
        Self { decay, tensors: tensors.collect() }
    }

    /// Takes in the values after a step. In the first steps the decay is lower, `(1 + step) / (10 + step)`, so that the average
    /// does not stay near the start values.
    ///
    /// - step: number of steps done, this one included
    pub(super) fn update(&self, step: u64) {
        let warm = (1.0 + step as f64) / (10.0 + step as f64);
        let weight = 1.0 - self.decay.min(warm);
        tch::no_grad(|| {
            for (_, value, average) in &self.tensors {
                let _ = average.shallow_clone().lerp_(&value.detach(), weight);
            }
        });
    }

    /// Exchanges the model's values and the averages, in place. Calling it again puts them back.
    pub(super) fn exchange(&self) {
        tch::no_grad(|| {
            for (_, value, average) in &self.tensors {
                let own = value.detach().copy();
                value.detach().copy_(average);
                average.shallow_clone().copy_(&own);
            }
        });
    }

    /// Starts again at the model's present values.
    pub(super) fn restart(&self) {
        tch::no_grad(|| {
            for (_, value, average) in &self.tensors {
                average.shallow_clone().copy_(&value.detach());
            }
        });
    }

    /// The averages, for a broadcast.
    pub(super) fn tensors(&self) -> impl Iterator<Item = Tensor> {
        self.tensors.iter().map(|(_, _, average)| average.shallow_clone())
    }

    /// For a training state: the averages by name.
    pub(super) fn state(&self) -> Vec<(String, Tensor)> {
        self.tensors
            .iter()
            .map(|(name, _, average)| (format!("ema/{name}"), average.shallow_clone()))
            .collect()
    }

    /// Restores the averages from a training state.
    ///
    /// # Errors
    /// When the state lacks one.
    pub(super) fn load(&self, mut stored: impl FnMut(&str) -> Result<Tensor>) -> Result<()> {
        for (name, _, average) in &self.tensors {
            let value = stored(&format!("ema/{name}"))?;
            ensure!(value.size() == average.size(), "ema/{name}: its shape is not that of the weights");
            tch::no_grad(|| average.shallow_clone().copy_(&value));
        }
        Ok(())
    }
}
