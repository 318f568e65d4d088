//! Compiles the C++ shim against the libtorch that torch-sys found, and passes libtorch's folder on to dependent crates.

use std::path::{Path, PathBuf};

use libtorch_build::{link_to, shared_library, single_unit};

const SOURCES: [&str; 12] = [
    "csrc/custom_gradient.cpp",
    "csrc/gradient_hooks.cpp",
    "csrc/kept_forms.cpp",
    "csrc/layers.cpp",
    "csrc/linear.cpp",
    "csrc/lowered.cpp",
    "csrc/measure.cpp",
    "csrc/profile.cpp",
    "csrc/residual.cpp",
    "csrc/script.cpp",
    "csrc/talent_torch.cpp",
    "csrc/transfer.cpp",
];

/// Sources with the feature `cpu-kernels`.
const CPU_KERNELS: &[&str] = &[
    "csrc/bf16_attention.cpp",
    "csrc/cpu_attention.cpp",
    "csrc/cpu_dropout.cpp",
    "csrc/cpu_linear.cpp",
    "csrc/packed_linear.cpp",
    "csrc/product.cpp",
    "csrc/softmax_rows.cpp",
];

/// Sources without the feature `cpu-kernels`.
const NO_CPU_KERNELS: &[&str] = &["csrc/no_cpu_kernels.cpp"];

#[allow(clippy::print_stdout, reason = "cargo listens there")]
fn main() {
    println!("cargo:rerun-if-changed=csrc");
    // Set by torch-sys; absent under `--features tch/doc-only`, where nothing is linked.
    let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") else { return };
    let lib = PathBuf::from(lib);
    // Include path of `guarded.h` for other crates that bind libtorch. It is a copy among the build's outputs: two checkouts that
    // share a target folder share this script's results, so these must not point into one of them.
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    std::fs::copy("csrc/guarded.h", out.join("guarded.h")).expect("guarded.h can be copied");
    println!("cargo:include={}", out.display());
    let Some(root) = lib.parent() else { return };
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .warnings(false)
        .include(root.join("include"))
        .include(root.join("include/torch/csrc/api/include"));
    if std::env::var_os("CARGO_FEATURE_CUDA_GRAPHS").is_some() {
        let library = shared_library(&build, root, "csrc/cuda_graph.cpp", "libtalent_graphs.so");
        println!("cargo:rustc-env=TALENT_GRAPHS_BUILT={}", library.display());
    }
    with_openmp(&mut build, &lib);
    let has_kernels = std::env::var_os("CARGO_FEATURE_CPU_KERNELS").is_some();
    let kernels = if has_kernels { CPU_KERNELS } else { NO_CPU_KERNELS };
    single_unit(&mut build, &[&SOURCES, kernels].concat());
    build.compile("talent_torch");
    link_to(&lib);
}

/// Compiles with OpenMP where libtorch uses GNU's: `at::parallel_for` is a template, which without it becomes a plain loop. Linked to
/// the very library that libtorch loads.
#[allow(clippy::print_stdout, reason = "cargo listens there")]
fn with_openmp(build: &mut cc::Build, lib: &Path) {
    let name = std::fs::read_dir(lib).ok().into_iter().flatten().flatten().find_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        (name.starts_with("libgomp") && name.contains(".so")).then_some(name)
    });
    let Some(name) = name.filter(|_| build.get_compiler().is_like_gnu()) else { return };
    build.flag("-fopenmp");
    println!("cargo:rustc-link-search=native={}", lib.display());
    println!("cargo:rustc-link-lib=dylib:+verbatim={name}");
}
