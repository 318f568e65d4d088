use std::path::{Path, PathBuf};

/// Environment variable with header folders, separated by colons. They replace those that are found.
const VARIABLE: &str = "TALENT_NVIDIA_HEADERS";

/// Folders with the headers of CUDA and NCCL, for a build script. If `TALENT_NVIDIA_HEADERS` is set, these are its folders
/// (separated by colons). Otherwise they are those of NVIDIA's packages beside PyTorch's in a Python environment (PyTorch does
/// not install nvidia-cuda-crt and nvidia-cuda-cccl), and of `/usr/local/cuda`.
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

/// Header folders of NVIDIA's packages in the Python environment that `package` is installed in, sorted.
pub fn beside_package(package: &Path) -> Vec<PathBuf> {
    let package = package.canonicalize().unwrap_or_else(|_| package.to_path_buf());
    let packages = package.parent().map(|folder| folder.join("nvidia"));
    let packages = packages.and_then(|folder| std::fs::read_dir(folder).ok()).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> =
        packages.map(|package| package.path().join("include")).filter(|folder| folder.is_dir()).collect();
    folders.sort();
    folders
}
