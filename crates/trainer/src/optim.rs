//! Adam with its state in the open, and the learning-rate schedules.

use anyhow::{Result, ensure};
use tch::{Kind, Tensor};
use torch_ext::fused::{self, AdamState, AdamStep};

use crate::config::{Schedule, TrainConfig};

/// Adam over two groups: everything inside the encoders, and the head, in the official order.
#[derive(Debug)]
pub(crate) struct Adam {
    names: Vec<String>,
    params: Vec<Tensor>,
    state: AdamState,
    cfg: TrainConfig,
}

impl Adam {
    /// - params: trainable parameters by official name, in the official order
    pub(crate) fn new(params: Vec<(String, Tensor)>, cfg: &TrainConfig) -> Self {
        // Group 0 before group 1, as the official optimiser numbers them.
        let (encoders, head): (Vec<_>, Vec<_>) = params.into_iter().partition(|(name, _)| in_encoders(name));
        let (names, params): (Vec<_>, Vec<_>) = encoders.into_iter().chain(head).unzip();
        let zeros = || params.iter().map(|param: &Tensor| param.detach().zeros_like()).collect();
        let steps = params.iter().map(|param| Tensor::zeros([], (Kind::Float, param.device()))).collect();
        Self {
            names,
            state: AdamState { exp_avgs: zeros(), exp_avg_sqs: zeros(), steps },
            params,
            cfg: cfg.clone(),
        }
    }

    pub(crate) fn n_values(&self) -> usize {
        self.params.iter().map(Tensor::numel).sum()
    }

    /// Gradients of the parameters that have one.
    pub(crate) fn grads(&self) -> Vec<Tensor> {
        self.params.iter().map(Tensor::grad).filter(Tensor::defined).collect()
    }

    pub(crate) fn zero_grad(&mut self) {
        for param in &mut self.params {
            param.zero_grad();
        }
    }

    /// Scales all gradients down to a norm of at most `limit` and returns the norm before.
    pub(crate) fn clip(&self, limit: f64) -> Result<f64> {
        let grads = self.grads();
        let norms: Vec<Tensor> = grads.iter().map(Tensor::norm).collect();
        let norm = f64::try_from(Tensor::stack(&norms, 0).norm())?;
        if norm > limit {
            for grad in grads {
                let _ = grad.shallow_clone().g_mul_scalar_(limit / (norm + 1e-6));
            }
        }
        Ok(norm)
    }

    /// One update; `factor` multiplies both groups' learning rates. Parameters without gradient are left alone.
    pub(crate) fn step(&mut self, factor: f64) -> Result<()> {
        for encoders in [true, false] {
            let chosen: Vec<usize> = (0..self.params.len())
                .filter(|&index| {
                    in_encoders(&self.names[index]) == encoders && self.params[index].grad().defined()
                })
                .collect();
            let pick =
                |list: &[Tensor]| chosen.iter().map(|&index| list[index].shallow_clone()).collect::<Vec<_>>();
            let state = AdamState {
                exp_avgs: pick(&self.state.exp_avgs),
                exp_avg_sqs: pick(&self.state.exp_avg_sqs),
                steps: pick(&self.state.steps),
            };
            for step in &state.steps {
                let _ = step.shallow_clone().g_add_scalar_(1.0);
            }
            let params = pick(&self.params);
            let grads: Vec<Tensor> = params.iter().map(Tensor::grad).collect();
            let lr = factor * if encoders { self.cfg.lr_encoders } else { self.cfg.lr };
            let TrainConfig { betas, eps, weight_decay, .. } = self.cfg;
            fused::adam(&params, &grads, &state, AdamStep { lr, betas, eps, weight_decay })?;
        }
        Ok(())
    }

    /// Moments and step counts by name: `exp_avg/NAME`, `exp_avg_sq/NAME`, `step/NAME`.
    pub(crate) fn state(&self) -> Vec<(String, Tensor)> {
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

    /// Restores what [`Adam::state`] gave.
    pub(crate) fn load_state(&mut self, find: impl Fn(&str) -> Option<Tensor>) -> Result<()> {
        for (name, mut tensor) in self.state() {
            let Some(value) = find(&name) else { anyhow::bail!("the training state lacks `{name}`") };
            let (found, expected) = (value.size(), tensor.size());
            ensure!(
                found == expected,
                "the training state's `{name}` has shape {found:?}, expected {expected:?}"
            );
            tch::no_grad(|| tensor.copy_(&value));
        }
        Ok(())
    }
}

fn in_encoders(name: &str) -> bool {
    name.starts_with("txt_backbone.") || name.starts_with("dinov2.")
}

/// The factor on the learning rate.
///
/// - step: optimiser steps done so far
/// - epoch: epochs finished so far; the official schedule changes the rate between epochs
/// - n_steps: steps of the whole run
pub(crate) fn lr_factor(cfg: &TrainConfig, step: u64, epoch: u64, n_steps: u64) -> f64 {
    match cfg.schedule {
        Schedule::MultiStep => {
            let passed = cfg.milestones.iter().filter(|&&milestone| epoch >= milestone).count();
            cfg.gamma.powi(passed as i32)
        }
        Schedule::Cosine if step < cfg.warmup_steps => (step + 1) as f64 / cfg.warmup_steps as f64,
        Schedule::Cosine => {
            let span = n_steps.saturating_sub(cfg.warmup_steps).max(1) as f64;
            let done = ((step - cfg.warmup_steps) as f64 / span).min(1.0);
            0.5 * (1.0 + (std::f64::consts::PI * done).cos())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_official_schedule() {
        let cfg = Config::base().train;
        // Epochs are counted from 1 in the specification: 1..35, 36..55, 56..65.
        let factors: Vec<f64> =
            [0, 34, 35, 54, 55, 64].map(|finished| lr_factor(&cfg, 0, finished, 1)).to_vec();
        for (factor, expected) in factors.iter().zip([1.0, 1.0, 0.1, 0.1, 0.01, 0.01]) {
            assert!((factor - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn cosine_rises_and_falls() {
        let cfg = TrainConfig { warmup_steps: 10, ..Config::tiny().train };
        assert_eq!(lr_factor(&cfg, 0, 0, 110), 0.1);
        assert_eq!(lr_factor(&cfg, 10, 0, 110), 1.0);
        assert!((lr_factor(&cfg, 60, 0, 110) - 0.5).abs() < 1e-12);
        assert!(lr_factor(&cfg, 110, 0, 110) < 1e-12);
    }

    #[test]
    fn groups_come_in_the_official_order() {
        let param = |name: &str| {
            (name.to_owned(), Tensor::zeros([1], (Kind::Float, tch::Device::Cpu)).set_requires_grad(true))
        };
        let adam = Adam::new(
            vec![param("neck.a"), param("dinov2.b"), param("txt_backbone.c")],
            &Config::base().train,
        );
        assert_eq!(adam.names, ["dinov2.b", "txt_backbone.c", "neck.a"]);
    }

    #[test]
    fn clipping_limits_the_joint_norm() {
        let params: Vec<Tensor> =
            [3.0_f32, 4.0].iter().map(|_| Tensor::from_slice(&[0.0_f32]).set_requires_grad(true)).collect();
        let loss = &params[0] * 3.0 + &params[1] * 4.0;
        loss.sum(None).backward();
        let named = ["a", "b"].map(str::to_owned).into_iter().zip(params).collect();
        let adam = Adam::new(named, &Config::base().train);
        assert!((adam.clip(1.0).unwrap() - 5.0).abs() < 1e-5);
        assert!((adam.clip(1.0).unwrap() - 1.0).abs() < 1e-5);
    }
}
