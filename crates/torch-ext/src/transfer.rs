//! Asynchronous copies between host and device. On the CPU they are plain copies.

use tch::kind::Element;
use tch::{Device, Tensor};

use crate::shim::{self, ShimError};

/// Copies values to a device asynchronously, through pinned (page-locked) memory. The copy may still be running on return. Work
/// that is queued on the device afterwards waits for it.
///
/// - shape: shape of the result; `values` are row-major
///
/// # Errors
/// When the device has no memory for it.
///
/// # Panics
/// If the shape does not hold as many values.
pub fn upload<T: Element>(values: &[T], shape: &[i64], device: Device) -> Result<Tensor, ShimError> {
    shim::upload(values, shape, device)
}

/// Sets whether [`upload`] copies on a separate CUDA stream, concurrently with the device's other work. By default it uses the
/// current stream.
pub fn upload_beside(beside: bool) {
    shim::measure::upload_beside(beside);
}

/// An asynchronous copy of a tensor to the host.
///
/// ```
/// let xs = tch::Tensor::from_slice(&[1.0_f32, 2.0]);
/// let copy = torch_ext::Download::start(&xs)?;
/// // Other work for the device, which is not waited for here:
/// assert!(copy.wait()?.equal(&xs));
/// # Ok::<(), torch_ext::ShimError>(())
/// ```
#[derive(Debug)]
pub struct Download(shim::Download);

impl Download {
    /// Queues the copy after the device's pending work. The tensor must not be changed afterwards (on the CPU the result shares
    /// its memory).
    ///
    /// # Errors
    /// When libtorch has no memory for it.
    pub fn start(xs: &Tensor) -> Result<Self, ShimError> {
        shim::Download::start(xs).map(Self)
    }

    /// Waits for the copy and returns the tensor on the host.
    ///
    /// # Errors
    /// When the device has failed.
    pub fn wait(self) -> Result<Tensor, ShimError> {
        self.0.wait()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_arrive_in_their_shape() {
        let mut values = vec![1_i64, 2, 3, 4, 5, 6];
        let tensor = upload(&values, &[2, 3], Device::Cpu).unwrap();
        values.fill(0);
        assert_eq!(Vec::<Vec<i64>>::try_from(tensor).unwrap(), [[1, 2, 3], [4, 5, 6]]);
        assert_eq!(upload::<f32>(&[], &[0, 4], Device::Cpu).unwrap().size(), [0, 4]);
    }

    #[test]
    #[should_panic(expected = "6 values")]
    fn a_shape_of_other_size_is_refused() {
        let _ = upload(&[0.0_f32; 6], &[2, 2], Device::Cpu);
    }
}
