//! Peak memory of the process or the device.

use anyhow::{Context, Result};
use tch::Device;

use crate::allocator::giving_back;
use crate::proc_status::{peak_rss_mib, rss_mib};

const UNKNOWN: &str = "/proc/self/status does not say how much memory is in use";
const MIB: f64 = (1 << 20) as f64;

/// Most memory in use so far in MiB: the process's resident memory, or what tensors held on a GPU.
pub(crate) fn peak_mib(device: Device) -> Result<f64> {
    match device {
        Device::Cuda(_) => Ok(torch_ext::peak_device_bytes(device)? as f64 / MIB),
        _ => peak_rss_mib().context(UNKNOWN),
    }
}

/// Most resident memory that `work` adds to what is resident before, in MiB; what it frees does not count.
pub(crate) fn extra_mib(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    giving_back(|| {
        // 5 resets the high-water mark.
        std::fs::write("/proc/self/clear_refs", "5").context("/proc/self/clear_refs")?;
        let before = rss_mib().context(UNKNOWN)?;
        work()?;
        Ok((peak_rss_mib().context(UNKNOWN)? - before).max(0.0))
    })
}
