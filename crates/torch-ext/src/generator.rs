//! State of libtorch's default random number generators (RNG), used for dropout and initialisation.

use tch::{Device, Tensor};

use crate::shim::{self, ShimError};

/// Returns the generator's state as bytes (a `uint8` tensor on CPU).
///
/// # Errors
/// When the device has no generator.
pub fn state(device: Device) -> Result<Tensor, ShimError> {
    shim::generator_state(device)
}

/// Restores a state returned by [`state`].
///
/// # Errors
/// When the bytes are not a state of this device's generator.
pub fn set_state(device: Device, state: &Tensor) -> Result<(), ShimError> {
    shim::set_generator_state(device, state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    #[test]
    fn a_restored_state_repeats_its_numbers() {
        let saved = state(Device::Cpu).unwrap();
        let first = Tensor::rand([5], (Kind::Float, Device::Cpu));
        set_state(Device::Cpu, &saved).unwrap();
        assert_eq!(first, Tensor::rand([5], (Kind::Float, Device::Cpu)));
        assert!(set_state(Device::Cpu, &Tensor::zeros([3], (Kind::Uint8, Device::Cpu))).is_err());
    }
}
