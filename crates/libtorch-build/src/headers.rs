use std::path::{Path, PathBuf};

/// Folders of headers, separated by colons, in place of those that are found.
const VARIABLE: &str = "TALENT_NVIDIA_HEADERS";

/// Folders of the headers of CUDA and NCCL, for a build script: those in `TALENT_NVIDIA_HEADERS` (separated by colons), or else of
/// the packages that stand beside PyTorch's in a Python environment (which lacks nvidia-cuda-crt and nvidia-cuda-cccl by itself),
/// and of `/usr/local/cuda`.
#[allow(clippy::print_stdout, reason = "cargo listens there")]
pub fn nvidia_headers(libtorch: &Path) -> Vec<PathBuf> {
    println!("cargo:rerun-if-env-changed={VARIABLE}");
    if let Some(given) = std::env::var_os(VARIABLE) {
        return std::env::split_paths(&given).collect();
    }
    let mut folders = beside_package(libtorch);
    folders.extend(Some(PathBuf::from("/usr/local/cuda/include")).filter(|folder| folder.is_dir()));
    folders
}

/// The header folders of NVIDIA's packages in the Python environment of a package, sorted.
pub fn beside_package(package: &Path) -> Vec<PathBuf> {
    let package = package.canonicalize().unwrap_or_else(|_| package.to_path_buf());
    let packages = package.parent().map(|folder| folder.join("nvidia"));
    let packages = packages.and_then(|folder| std::fs::read_dir(folder).ok()).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> =
        packages.map(|package| package.path().join("include")).filter(|folder| folder.is_dir()).collect();
    folders.sort();
    folders
}
