//! Peak memory of the process or the device.

use anyhow::{Context, Result};
use tch::Device;

use crate::allocator::give_back;

const MIB: f64 = (1 << 20) as f64;

/// Most memory in use so far in MiB: the process's resident memory, or what tensors held on a GPU.
pub(crate) fn peak_mib(device: Device) -> Result<f64> {
    match device {
        Device::Cuda(_) => Ok(torch_ext::peak_device_bytes(device)? as f64 / MIB),
        _ => status_mib("VmHWM:"),
    }
}

/// Most resident memory that `work` adds to what is resident before, in MiB.
pub(crate) fn extra_mib(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    give_back();
    // 5 resets the high-water mark.
    std::fs::write("/proc/self/clear_refs", "5").context("/proc/self/clear_refs")?;
    let before = status_mib("VmRSS:")?;
    work()?;
    Ok((status_mib("VmHWM:")? - before).max(0.0))
}

fn status_mib(field: &str) -> Result<f64> {
    let path = "/proc/self/status";
    let status = std::fs::read_to_string(path).with_context(|| path.to_owned())?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse::<f64>().ok());
    Ok(kib.with_context(|| format!("{path}: there is no {field}"))? / 1024.0)
}
