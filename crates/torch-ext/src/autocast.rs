use tch::{Device, Kind, Tensor};

use crate::shim::{self, ShimError};

/// Guard for autocast (mixed precision): while it lives, matrix products and convolutions run in a lower precision, and
/// reductions and normalisations stay in float32. Dropping it restores the previous state and clears autocast's cache of casts.
///
/// ```no_run
/// let guard = torch_ext::Autocast::enable(tch::Device::Cpu, tch::Kind::BFloat16)?;
/// // forward pass and loss
/// drop(guard);
/// # Ok::<(), torch_ext::ShimError>(())
/// ```
#[derive(Debug)]
pub struct Autocast {
    cuda: bool,
    before: (bool, i32),
}

impl Autocast {
    /// Enables autocast to `kind` on a device for this thread. `Kind::Float` disables it instead.
    ///
    /// # Errors
    /// When libtorch refuses the device or dtype.
    pub fn enable(device: Device, kind: Kind) -> Result<Self, ShimError> {
        let cuda = device.is_cuda();
        let before = shim::autocast_get(cuda)?;
        let (enabled, scalar_type) = match kind {
            Kind::Float => (false, before.1),
            kind => {
                let number = shim::scalar_type(kind);
                (true, number.ok_or_else(|| ShimError(format!("autocast to {kind:?} is not possible")))?)
            }
        };
        shim::autocast_set(cuda, enabled, scalar_type)?;
        Ok(Self { cuda, before })
    }

    /// The autocast dtype on a device for this thread. `None` if autocast is off.
    pub fn kind(device: Device) -> Option<Kind> {
        let (enabled, scalar_type) = shim::autocast_get(device.is_cuda()).ok()?;
        let kinds = [Kind::BFloat16, Kind::Half].into_iter();
        kinds.filter(|_| enabled).find(|kind| shim::scalar_type(*kind) == Some(scalar_type))
    }

    /// The dtype that matrix products currently run in on this device, found by running one.
    ///
    /// # Errors
    /// When the product cannot be computed.
    pub fn matmul_kind(device: Device) -> Result<Kind, ShimError> {
        let probe =
            Tensor::f_ones([8, 8], (Kind::Float, device)).map_err(|error| ShimError(error.to_string()))?;
        let product = probe.f_matmul(&probe).map_err(|error| ShimError(error.to_string()))?;
        Ok(product.kind())
    }
}

impl Drop for Autocast {
    fn drop(&mut self) {
        // Both calls only set thread-local flags, and `drop` cannot return an error.
        let _ = shim::autocast_clear_cache();
        let _ = shim::autocast_set(self.cuda, self.before.0, self.before.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_run_in_bfloat16_only_inside_the_guard() {
        let guard = Autocast::enable(Device::Cpu, Kind::BFloat16).unwrap();
        assert_eq!(Autocast::matmul_kind(Device::Cpu).unwrap(), Kind::BFloat16);
        let inner = Autocast::enable(Device::Cpu, Kind::Float).unwrap();
        assert_eq!(Autocast::matmul_kind(Device::Cpu).unwrap(), Kind::Float);
        drop(inner);
        assert_eq!(Autocast::matmul_kind(Device::Cpu).unwrap(), Kind::BFloat16);
        drop(guard);
        assert_eq!(Autocast::matmul_kind(Device::Cpu).unwrap(), Kind::Float);
    }
}
