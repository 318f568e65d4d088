//! Finds or downloads the headers of CUDA and NCCL that the NCCL and CUDA-graph libraries are compiled with.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cli_kit::errln;
use libtorch_build::beside_package;

use crate::libtorch::Libtorch;
use crate::project::{root, run_aside};

/// pip packages with headers that PyTorch's dependencies do not contain, in the CUDA version of PyTorch's wheel.
const PACKAGES: [&str; 2] = ["nvidia-cuda-crt>=13.0,<13.1", "nvidia-cuda-cccl>=13.0,<13.1"];

/// Include folders, separated by colons: those of the environment variable, or those beside PyTorch, completed by pip.
pub(super) fn of_nvidia(libtorch: &Libtorch) -> Result<String> {
    if let Ok(given) = std::env::var("TALENT_NVIDIA_HEADERS") {
        return Ok(given);
    }
    ensure!(
        libtorch.has_cuda,
        "{} is a libtorch for CPUs only, and a pack is built with one for CUDA; unset LIBTORCH to let the set-up choose",
        libtorch.path.display()
    );
    let mut folders = beside_package(&libtorch.path);
    let has = |folders: &[PathBuf], name: &str| folders.iter().any(|folder| folder.join(name).is_file());
    let complete = |folders: &[PathBuf]| has(folders, "crt/host_defines.h") && has(folders, "nv/target");
    if !complete(&folders) {
        let fetched = root().join(".nvidia-headers");
        let own = beside_package(&fetched.join("torch"));
        if !complete(&[folders.clone(), own].concat()) {
            fetch(&libtorch.path, &fetched)?;
        }
        folders.extend(beside_package(&fetched.join("torch")));
    }
    ensure!(
        complete(&folders),
        "the headers of CUDA are not complete; install nvidia-cuda-crt and nvidia-cuda-cccl beside PyTorch, or name folders of headers in TALENT_NVIDIA_HEADERS"
    );
    let shown: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
    Ok(shown.join(":"))
}

fn fetch(libtorch: &Path, to: &Path) -> Result<()> {
    // The Python of this libtorch if there is one, otherwise any: headers do not depend on it.
    let own = libtorch.canonicalize().ok().and_then(|path| Some(path.ancestors().nth(4)?.join("bin/python")));
    let python = own.filter(|python| python.is_file()).unwrap_or_else(|| "python3".into());
    errln!("pack: fetching headers of CUDA into {}", to.display());
    run_aside(
        Command::new(python)
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--upgrade"])
            .arg("--target")
            .arg(to)
            .args(PACKAGES),
    )
    .context("pip could not fetch the headers of CUDA; check the network, or name folders of headers in TALENT_NVIDIA_HEADERS")
}
