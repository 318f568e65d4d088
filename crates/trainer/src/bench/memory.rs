//! Peak memory of the process or the device.

use anyhow::{Context, Result};
use tch::Device;

use crate::allocator::giving_back;
use crate::proc_status::{peak_rss_mib, rss_mib};

const UNKNOWN: &str = "/proc/self/status does not say how much memory is in use";
const MIB: f64 = (1 << 20) as f64;

/// Peak memory so far in MiB: the process's resident memory (RSS), or on a GPU the memory that tensors held.
pub(crate) fn peak_mib(device: Device) -> Result<f64> {
    match device {
        Device::Cuda(_) => Ok(torch_ext::peak_device_bytes(device)? as f64 / MIB),
        _ => peak_rss_mib().context(UNKNOWN),
    }
}

/// Peak resident memory in MiB that `work` adds to what was resident before. Freed memory goes back to the system at once
/// and does not count.
pub(crate) fn extra_mib(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    giving_back(|| {
        // Writing 5 resets the peak RSS.
        std::fs::write("/proc/self/clear_refs", "5").context("/proc/self/clear_refs")?;
        let before = rss_mib().context(UNKNOWN)?;
        work()?;
        Ok((peak_rss_mib().context(UNKNOWN)? - before).max(0.0))
    })
}
