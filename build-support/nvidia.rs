// Libraries that are compiled with CUDA's headers and loaded when a GPU is to be used: a program that has them runs with a
// libtorch for CPUs, too. What they need of libtorch is in the process by then. Part of build scripts.

use std::path::{Path, PathBuf};

/// Compiles `source` into the shared library `name` of the build's output folder, and returns its path.
fn shared_library(base: &cc::Build, libtorch: &Path, source: &str, name: &str) -> PathBuf {
    let folder = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    let library = folder.join(name);
    let mut build = base.clone();
    build.includes(nvidia_headers(libtorch));
    let mut command = build.get_compiler().to_command();
    command.arg("-shared").arg(source).arg("-o").arg(&library);
    let compiled = command.status().is_ok_and(|status| status.success());
    assert!(compiled, "{command:?} failed");
    library
}

/// Folders of the headers of CUDA and NCCL: those in `TALENT_NVIDIA_HEADERS` (separated by colons), or else of the packages
/// that stand beside PyTorch's in a Python environment (which lacks nvidia-cuda-crt and nvidia-cuda-cccl by itself), or else of
/// `/usr/local/cuda`.
#[allow(clippy::print_stdout, reason = "cargo listens there")]
fn nvidia_headers(libtorch: &Path) -> Vec<PathBuf> {
    println!("cargo:rerun-if-env-changed=TALENT_NVIDIA_HEADERS");
    if let Some(given) = std::env::var_os("TALENT_NVIDIA_HEADERS") {
        return std::env::split_paths(&given).collect();
    }
    let beside = libtorch.canonicalize().ok().and_then(|root| Some(root.parent()?.join("nvidia")));
    let packages = beside.and_then(|folder| std::fs::read_dir(folder).ok()).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = packages.map(|package| package.path().join("include")).collect();
    folders.push("/usr/local/cuda/include".into());
    folders.retain(|folder| folder.is_dir());
    folders
}
