//! Compiles the binding against the libtorch that torch-sys found.

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=csrc");
    println!("cargo:rerun-if-env-changed=TALENT_NVIDIA_HEADERS");
    // Set by torch-sys; absent under `--features tch/doc-only`, where nothing is linked.
    let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") else { return };
    let lib = PathBuf::from(lib);
    let Some(root) = lib.parent() else { return };
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .warnings(false)
        .define("USE_C10D", None)
        .include(std::env::var("DEP_TALENT_TORCH_EXT_INCLUDE").unwrap_or_default())
        .include(root.join("include"))
        .include(root.join("include/torch/csrc/api/include"))
        .file("csrc/c10d.cpp");
    if std::env::var_os("CARGO_FEATURE_GLOO").is_some() {
        build.define("USE_C10D_GLOO", None).include("csrc/declarations").file("csrc/gloo.cpp");
    }
    if std::env::var_os("CARGO_FEATURE_NCCL").is_some() {
        build_nccl(&build, root);
    }
    build.compile("talent_c10d");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    println!("cargo:rustc-link-arg=-Wl,--no-as-needed,-ltorch");
}

/// A library of its own, which is loaded when a GPU is to be used: so a program that has it runs with a libtorch for CPUs, too.
/// What it needs of libtorch is in the process by then.
fn build_nccl(base: &cc::Build, libtorch: &Path) {
    let folder = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    let library = folder.join("libtalent_nccl.so");
    let mut build = base.clone();
    build.define("USE_C10D_NCCL", None).includes(nvidia_headers(libtorch));
    let mut command = build.get_compiler().to_command();
    command.arg("-shared").arg("csrc/nccl.cpp").arg("-o").arg(&library);
    let compiled = command.status().is_ok_and(|status| status.success());
    assert!(compiled, "{command:?} failed");
    println!("cargo:rustc-env=TALENT_NCCL_BUILT={}", library.display());
}

/// Folders of the headers of CUDA and NCCL: those in `TALENT_NVIDIA_HEADERS` (separated by colons), or else of the packages
/// that stand beside PyTorch's in a Python environment (which lacks nvidia-cuda-crt and nvidia-cuda-cccl by itself), or else of
/// `/usr/local/cuda`.
fn nvidia_headers(libtorch: &Path) -> Vec<PathBuf> {
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
