//! Adam with accessible state.

use tch::{Device, Kind, Tensor};

use crate::fused::{self, AdamState, AdamStep};
use crate::shim::ShimError;
use crate::shim::measure::clear_gradients;

/// Hyper-parameters of [`Adam`], shared by all groups.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamConfig {
    /// Decay of the first and second moment.
    pub betas: [f64; 2],
    /// Added to the square root of the second moment.
    pub eps: f64,
    /// Weight decay as an L2 penalty, added to the gradient.
    pub weight_decay: f64,
}

/// Parameters that share a learning rate.
#[derive(Debug)]
pub struct AdamGroup {
    /// Parameters by name.
    pub params: Vec<(String, Tensor)>,
    /// Base learning rate. Each step multiplies it by the step's factor.
    pub lr: f64,
}

/// Error when restoring an optimiser state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdamStateError {
    /// An entry is missing.
    #[error("the optimiser state lacks `{0}`")]
    Missing(String),
    /// The shapes differ.
    #[error("the optimiser state's `{name}` has shape {found:?}, expected {expected:?}")]
    Shape {
        /// Name of the entry.
        name: String,
        /// Shape in the given state.
        found: Vec<i64>,
        /// Shape of the parameter.
        expected: Vec<i64>,
    },
}

/// Adam over groups of named parameters. Parameters are numbered across groups, as in PyTorch's optimiser state.
#[derive(Debug)]
pub struct Adam {
    names: Vec<String>,
    params: Vec<Tensor>,
    /// Base learning rate of each parameter, see [`AdamGroup::lr`].
    lrs: Vec<f64>,
    state: AdamState,
    /// Storage that the steps in `state` are views of, so that one operation increments all of them.
    counts: Tensor,
    cfg: AdamConfig,
}

impl Adam {
    /// Creates an optimiser at step 0. All parameters must be on one device.
    pub fn new(groups: impl IntoIterator<Item = AdamGroup>, cfg: AdamConfig) -> Self {
        let (mut names, mut params, mut lrs) = (Vec::new(), Vec::new(), Vec::new());
        for group in groups {
            for (name, param) in group.params {
                names.push(name);
                params.push(param);
                lrs.push(group.lr);
            }
        }
        let zeros = || params.iter().map(|param: &Tensor| param.detach().zeros_like()).collect();
        let device = params.first().map_or(Device::Cpu, Tensor::device);
        let counts = Tensor::zeros([params.len() as i64], (Kind::Float, device));
        let state = AdamState { exp_avgs: zeros(), exp_avg_sqs: zeros(), steps: counts.unbind(0) };
        Self { names, lrs, state, counts, params, cfg }
    }

    /// Names of all parameters, in order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// All parameters, in the order of their names.
    pub fn params(&self) -> &[Tensor] {
        &self.params
    }

    /// Total number of values in all parameters.
    pub fn n_values(&self) -> usize {
        self.params.iter().map(Tensor::numel).sum()
    }

    /// Gradients of the parameters that have one.
    pub fn grads(&self) -> Vec<Tensor> {
        self.params.iter().map(Tensor::grad).filter(Tensor::defined).collect()
    }

    /// Sets all gradients to undefined (`set_to_none` in PyTorch), so that the next backward pass neither zero-fills nor adds.
    ///
    /// # Errors
    /// When libtorch refuses the tensors.
    pub fn zero_grad(&mut self) -> Result<(), ShimError> {
        clear_gradients(&self.params)
    }

    /// Clips the joint norm of all gradients to `limit`. Returns the norm before clipping as a scalar on their device, without
    /// synchronisation.
    pub fn clip(&self, limit: f64) -> Tensor {
        let grads = self.grads();
        let norms: Vec<Tensor> = grads.iter().map(Tensor::norm).collect();
        if norms.is_empty() {
            return Tensor::from(0.0_f32);
        }
        let norm = Tensor::stack(&norms, 0).norm().to_kind(Kind::Double);
        let factor = ((&norm + 1e-6).reciprocal() * limit).clamp_max(1.0);
        // At or below the limit the factor is exactly 1, so no bit of a gradient changes.
        let factor = factor.where_self(&norm.gt(limit), &factor.ones_like());
        for grad in grads {
            let _ = grad.shallow_clone().g_mul_(&factor);
        }
        norm
    }

    /// Performs one update. `factor` multiplies every learning rate. Parameters without gradient are left unchanged.
    ///
    /// # Errors
    /// When libtorch refuses the tensors.
    pub fn step(&mut self, factor: f64) -> Result<(), ShimError> {
        self.step_unless(factor, None)
    }

    /// As [`Adam::step`], but skipped if a flag is set. The flag is read on the parameters' device, without synchronisation.
    ///
    /// - found_inf: one float32, 0 or 1, as [`fused::unscale`] sets it
    ///
    /// # Errors
    /// When libtorch refuses the tensors.
    pub fn step_unless(&mut self, factor: f64, found_inf: Option<&Tensor>) -> Result<(), ShimError> {
        self.update(factor, None, found_inf)
    }

    /// As [`Adam::step_unless`], with the factor as a float32 scalar on the parameters' device: a CUDA graph that captured this
    /// step can be replayed with other factors.
    ///
    /// # Errors
    /// When libtorch refuses the tensors.
    pub fn step_by_device(&mut self, factor: &Tensor, found_inf: &Tensor) -> Result<(), ShimError> {
        self.update(1.0, Some(factor), Some(found_inf))
    }

    fn update(
        &mut self,
        factor: f64,
        lr_factor: Option<&Tensor>,
        found_inf: Option<&Tensor>,
    ) -> Result<(), ShimError> {
        let mut rates: Vec<f64> = self.lrs.clone();
        rates.sort_by(f64::total_cmp);
        rates.dedup();
        let counted = found_inf.map(|found| (1.0_f64 - found).view([]));
        let count = |steps: &Tensor| {
            let _ = match &counted {
                Some(counted) => steps.shallow_clone().g_add_(counted),
                None => steps.shallow_clone().g_add_scalar_(1.0),
            };
        };
        let all = self.params.iter().all(|param| param.grad().defined());
        if all {
            count(&self.counts);
        }
        for rate in rates {
            let chosen: Vec<usize> = (0..self.params.len())
                .filter(|&index| self.lrs[index] == rate && self.params[index].grad().defined())
                .collect();
            let pick =
                |list: &[Tensor]| chosen.iter().map(|&index| list[index].shallow_clone()).collect::<Vec<_>>();
            let state = AdamState {
                exp_avgs: pick(&self.state.exp_avgs),
                exp_avg_sqs: pick(&self.state.exp_avg_sqs),
                steps: pick(&self.state.steps),
            };
            if !all {
                state.steps.iter().for_each(count);
            }
            let params = pick(&self.params);
            let grads: Vec<Tensor> = params.iter().map(Tensor::grad).collect();
            let AdamConfig { betas, eps, weight_decay } = self.cfg;
            let step = AdamStep { lr: factor * rate, lr_factor, betas, eps, weight_decay };
            fused::adam(&params, &grads, &state, step, found_inf)?;
        }
        Ok(())
    }

    /// Moments and step counts by name: `exp_avg/NAME`, `exp_avg_sq/NAME`, `step/NAME`.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let lists = [
            ("exp_avg", &self.state.exp_avgs),
            ("exp_avg_sq", &self.state.exp_avg_sqs),
            ("step", &self.state.steps),
        ];
        let named = |(kind, list): (&str, &Vec<Tensor>)| -> Vec<(String, Tensor)> {
            let entries = self.names.iter().zip(list);
            entries.map(|(name, tensor)| (format!("{kind}/{name}"), tensor.shallow_clone())).collect()
        };
        lists.into_iter().flat_map(named).collect()
    }

    /// Restores the result of [`Adam::state`].
    ///
    /// # Errors
    /// When an entry is missing or has another shape. The error names it.
    pub fn load_state(&mut self, find: impl Fn(&str) -> Option<Tensor>) -> Result<(), AdamStateError> {
        for (name, mut tensor) in self.state() {
            let Some(value) = find(&name) else { return Err(AdamStateError::Missing(name)) };
            let (found, expected) = (value.size(), tensor.size());
            if found != expected {
                return Err(AdamStateError::Shape { name, found, expected });
            }
            tch::no_grad(|| tensor.copy_(&value));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CFG: AdamConfig = AdamConfig { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0 };

    fn param(name: &str) -> (String, Tensor) {
        (name.to_owned(), Tensor::zeros([1], (Kind::Float, tch::Device::Cpu)).set_requires_grad(true))
    }

    #[test]
    fn clipping_limits_the_joint_norm() {
        let params = vec![param("a"), param("b")];
        let loss = &params[0].1 * 3.0 + &params[1].1 * 4.0;
        loss.sum(None).backward();
        let adam = Adam::new([AdamGroup { params, lr: 1.0 }], CFG);
        let clip = || f64::try_from(adam.clip(1.0)).unwrap();
        assert!((clip() - 5.0).abs() < 1e-5);
        assert!((clip() - 1.0).abs() < 1e-5);
        let before: Vec<f64> = adam.grads().iter().map(|grad| f64::try_from(grad).unwrap()).collect();
        let _ = adam.clip(7.0);
        assert_eq!(before, adam.grads().iter().map(|grad| f64::try_from(grad).unwrap()).collect::<Vec<_>>());
    }

    #[test]
    fn a_set_flag_stops_a_step_altogether() {
        let mut adam = Adam::new([AdamGroup { params: vec![param("a")], lr: 0.1 }], CFG);
        adam.params[0].sum(None).backward();
        let value = |tensor: &Tensor| f64::try_from(tensor.sum(Kind::Double)).unwrap();
        for (flag, moved, steps) in [(1.0_f32, 0.0, 0.0), (0.0, -0.1, 1.0)] {
            adam.step_unless(1.0, Some(&Tensor::from_slice(&[flag]))).unwrap();
            assert!((value(&adam.params[0]) - moved).abs() < 1e-6);
            assert_eq!(value(&adam.state.steps[0]), steps);
        }
    }

    #[test]
    fn a_parameter_without_gradient_is_left_alone() {
        let mut adam = Adam::new([AdamGroup { params: vec![param("a"), param("b")], lr: 0.1 }], CFG);
        adam.params.iter().map(|param| param.sum(None)).sum::<Tensor>().backward();
        adam.step(1.0).unwrap();
        adam.zero_grad().unwrap();
        assert!(adam.grads().is_empty());
        adam.params[1].sum(None).backward();
        adam.step(1.0).unwrap();
        let steps: Vec<f64> = adam.state.steps.iter().map(|step| f64::try_from(step).unwrap()).collect();
        assert_eq!(steps, [1.0, 2.0]);
        assert!((f64::try_from(&adam.params[0]).unwrap() + 0.1).abs() < 1e-6);
    }

    #[test]
    fn every_group_moves_by_its_own_rate() {
        let groups = [("a", 0.1), ("b", 0.2), ("c", 0.1)]
            .map(|(name, lr)| AdamGroup { params: vec![param(name)], lr });
        let mut adam = Adam::new(groups, CFG);
        adam.params.iter().map(|param| param.sum(None)).sum::<Tensor>().backward();
        adam.step(0.5).unwrap();
        for (param, expected) in adam.params.iter().zip([-0.05, -0.1, -0.05]) {
            assert!((f64::try_from(param).unwrap() - expected).abs() < 1e-6);
        }
        assert!(
            adam.state()
                .iter()
                .filter(|(name, _)| name.starts_with("step/"))
                .all(|(_, step)| { f64::try_from(step).unwrap() == 1.0 })
        );
    }
}
