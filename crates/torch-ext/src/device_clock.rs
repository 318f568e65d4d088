//! Measures times on a device without synchronisation.

use tch::Device;

use crate::shim::{ShimError, measure::Mark};

/// A timestamp. On a GPU it is a CUDA event in the device's queue of work, on the CPU the current time.
#[derive(Debug)]
pub struct Moment(Inner);

#[derive(Debug)]
enum Inner {
    Host(std::time::Instant),
    Device(Mark),
}

impl Moment {
    /// Takes a timestamp. On a GPU it is the time when all work queued so far is done.
    ///
    /// # Errors
    /// When the device cannot record the event.
    pub fn now(device: Device) -> Result<Self, ShimError> {
        Ok(Self(match device {
            Device::Cuda(_) => Inner::Device(Mark::set(device)?),
            _ => Inner::Host(std::time::Instant::now()),
        }))
    }

    /// Seconds from this moment to a later one of the same device. Waits until the later one is reached.
    ///
    /// # Errors
    /// When the device has failed.
    pub fn seconds_to(&self, later: &Self) -> Result<f64, ShimError> {
        match (&self.0, &later.0) {
            (Inner::Host(first), Inner::Host(second)) => Ok(second.duration_since(*first).as_secs_f64()),
            (Inner::Device(first), Inner::Device(second)) => Ok(first.milliseconds_to(second)? / 1e3),
            _ => Err(ShimError("the moments are of different devices".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes() {
        let first = Moment::now(Device::Cpu).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(3));
        let second = Moment::now(Device::Cpu).unwrap();
        assert!(first.seconds_to(&second).unwrap() >= 0.003);
    }
}
