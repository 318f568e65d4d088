//! The optimiser a config asks for, and the learning-rate schedules.

use talent::Talent;
use torch_ext::{Adam, AdamConfig, AdamGroup};

use crate::config::{Schedule, TrainConfig};

/// Adam with the two official parameter groups: everything inside the encoders, and the head.
pub(crate) fn adam(model: &Talent, cfg: &TrainConfig) -> Adam {
    let [encoders, head] = model.optimizer_groups();
    let groups = [(encoders, cfg.lr_encoders), (head, cfg.lr)].map(|(params, lr)| AdamGroup { params, lr });
    Adam::new(groups, AdamConfig { betas: cfg.betas, eps: cfg.eps, weight_decay: cfg.weight_decay })
}

/// The factor that multiplies the learning rates at a step.
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
}
