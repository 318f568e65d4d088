//! Fused operations: one call for many tensors.

use tch::Tensor;

use crate::shim::{self, AdamLists, ShimError};

/// Hyper-parameters of one Adam update.
#[derive(Debug, Clone, Copy)]
pub struct AdamStep<'a> {
    /// Learning rate.
    pub lr: f64,
    /// Float32 scalar on the parameters' device that multiplies the learning rate. It lets an update that is captured in a CUDA
    /// graph be replayed with another learning rate.
    pub lr_factor: Option<&'a Tensor>,
    /// Decay of the first and second moment.
    pub betas: [f64; 2],
    /// Added to the square root of the second moment.
    pub eps: f64,
    /// Weight decay as an L2 penalty, added to the gradient.
    pub weight_decay: f64,
}

/// State of Adam for each parameter.
#[derive(Debug, Default)]
pub struct AdamState {
    /// First moments.
    pub exp_avgs: Vec<Tensor>,
    /// Second moments.
    pub exp_avg_sqs: Vec<Tensor>,
    /// Number of steps done, one 0-d float32 tensor per parameter, as in PyTorch.
    pub steps: Vec<Tensor>,
}

/// Performs one Adam update of all parameters in place. `steps` must already include this update.
///
/// - found_inf: one float32 on the parameters' device, as [`unscale`] sets it; if it is 1, nothing changes
///
/// # Errors
/// When libtorch refuses the tensors.
pub fn adam(
    params: &[Tensor],
    grads: &[Tensor],
    state: &AdamState,
    step: AdamStep<'_>,
    found_inf: Option<&Tensor>,
) -> Result<(), ShimError> {
    if params.is_empty() {
        return Ok(());
    }
    let lists = AdamLists {
        params,
        grads,
        exp_avgs: &state.exp_avgs,
        exp_avg_sqs: &state.exp_avg_sqs,
        steps: &state.steps,
    };
    shim::fused_adam(&lists, step.lr, step.betas, step.eps, step.weight_decay, step.lr_factor, found_inf)
}

/// Undoes loss scaling: multiplies all gradients by `inv_scale` in place, and sets `found_inf` to 1 if any entry is not finite.
/// Both are one-element float32 tensors. Nothing is copied to the host.
///
/// # Errors
/// When libtorch refuses the tensors.
pub fn unscale(grads: &[Tensor], found_inf: &Tensor, inv_scale: &Tensor) -> Result<(), ShimError> {
    if grads.is_empty() {
        return Ok(());
    }
    shim::unscale_and_check(grads, found_inf, inv_scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_adam_step_moves_by_the_learning_rate() {
        let param = Tensor::from_slice(&[1.0_f32, -2.0]);
        let grad = Tensor::from_slice(&[0.5_f32, -3.0]);
        let state = AdamState {
            exp_avgs: vec![param.zeros_like()],
            exp_avg_sqs: vec![param.zeros_like()],
            steps: vec![Tensor::from(1.0_f32)],
        };
        let step = AdamStep { lr: 0.1, lr_factor: None, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0 };
        let grads = [grad];
        let found = Tensor::from_slice(&[1.0_f32]);
        adam(std::slice::from_ref(&param), &grads, &state, step, Some(&found)).unwrap();
        assert_eq!(Vec::<f32>::try_from(&param).unwrap(), [1.0, -2.0]);
        adam(std::slice::from_ref(&param), &grads, &state, step, None).unwrap();
        let moved = Vec::<f32>::try_from(param).unwrap();
        assert!((moved[0] - 0.9).abs() < 1e-6 && (moved[1] + 1.9).abs() < 1e-6, "{moved:?}");
    }

    #[test]
    fn unscaling_finds_infinities() {
        let found = Tensor::zeros([1], (tch::Kind::Float, tch::Device::Cpu));
        let grads = [Tensor::from_slice(&[8.0_f32]), Tensor::from_slice(&[f32::INFINITY])];
        unscale(&grads, &found, &Tensor::from_slice(&[0.5_f32])).unwrap();
        assert_eq!(f32::try_from(&grads[0]).unwrap(), 4.0);
        assert_eq!(f32::try_from(&found).unwrap(), 1.0);
    }
}
