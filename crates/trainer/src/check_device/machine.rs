//! Name of the device, and its peak rates of matrix products, copies and uploads.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use tch::{Kind, Tensor};
use torch_ext::{Moment, upload};

use super::part::{Outcome, Setting};
use crate::bench::matmul_rate;
use crate::config::Precision;
use crate::run_dir::cpu_model;

pub(super) fn machine(setting: &Setting) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    outcome.figure("cpu", cpu_model().unwrap_or_else(|| "unknown".into()));
    outcome.figure("cores", std::thread::available_parallelism().map_or(1, usize::from));
    outcome.figure("libtorch", torch_ext::version()?);
    if setting.device.is_cuda() {
        let (name, driver) = graphics_card(&setting.device_name);
        outcome.figure("name", name);
        outcome.figure("driver", driver);
        outcome.figure("cudnn", tch::Cuda::cudnn_is_available());
    }
    for precision in [Precision::Fp32, Precision::Tf32, Precision::Bf16, Precision::Fp16] {
        if !setting.device.is_cuda() && matches!(precision, Precision::Tf32 | Precision::Fp16) {
            continue;
        }
        let name = serde_json::to_value(precision)?.as_str().unwrap_or_default().to_owned();
        let rate = matmul_rate(setting.device, precision)? / 1e12;
        outcome.figure(&format!("{name}_tflops"), rate);
        outcome.require(rate > 0.0, || format!("products in {name} take no time"));
    }
    outcome.figure("copy_gb_per_s", copy_rate(setting)?);
    outcome.figure("upload_gb_per_s", upload_rate(setting)?);
    Ok(outcome)
}

/// Rate in GB/s of copies within the device's memory, counting bytes read and bytes written.
fn copy_rate(setting: &Setting) -> Result<f64> {
    let n: i64 = if setting.small() { 1 << 24 } else { 1 << 28 };
    let from = Tensor::rand([n], (Kind::Float, setting.device));
    let mut to = from.zeros_like();
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let started = Moment::now(setting.device)?;
        to.copy_(&from);
        best = best.min(started.seconds_to(&Moment::now(setting.device)?)?);
    }
    Ok(8.0 * n as f64 / best / 1e9)
}

/// Upload rate of samples in GB/s, from pageable memory through pinned (page-locked) memory to the device.
fn upload_rate(setting: &Setting) -> Result<f64> {
    let values = vec![0.5_f32; 32 * 3 * 448 * 448];
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let started = std::time::Instant::now();
        let there = upload(&values, &[values.len() as i64], setting.device)?;
        crate::bench::synchronize(setting.device);
        best = best.min(started.elapsed().as_secs_f64());
        drop(there);
    }
    Ok(4.0 * values.len() as f64 / best / 1e9)
}

/// Name and driver version of the GPU, from `nvidia-smi` or else from `/proc/driver/nvidia`.
fn graphics_card(device: &str) -> (String, String) {
    let index = device.strip_prefix("cuda:").unwrap_or("0");
    let query = ["--query-gpu=name,driver_version", "--format=csv,noheader", "--id", index];
    let asked = Command::new("nvidia-smi").args(query).output().ok();
    let asked = asked.filter(|output| output.status.success()).map(|output| output.stdout);
    let line = asked.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
    if let Some((name, driver)) = line.as_deref().and_then(|line| line.split_once(", ")) {
        return (name.to_owned(), driver.to_owned());
    }
    let said = |path: &Path, field: &str| {
        let text = std::fs::read_to_string(path).ok()?;
        let line =
            text.lines().find_map(|line| line.strip_prefix(field).map(str::trim).map(str::to_owned))?;
        Some(line)
    };
    let folders = std::fs::read_dir("/proc/driver/nvidia/gpus").into_iter().flatten().flatten();
    let name = folders.into_iter().find_map(|folder| said(&folder.path().join("information"), "Model:"));
    let driver = said(Path::new("/proc/driver/nvidia/version"), "NVRM version:");
    (name.unwrap_or_else(|| "unknown".into()), driver.unwrap_or_else(|| "unknown".into()))
}
