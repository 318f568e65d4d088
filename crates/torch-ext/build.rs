//! Compiles the C++ shim against the libtorch that torch-sys found, and hands its folder on to dependants.

use std::path::PathBuf;

use libtorch_build::{link_to, shared_library};

const SOURCES: [&str; 12] = [
    "csrc/attention.cpp",
    "csrc/custom_gradient.cpp",
    "csrc/dropout.cpp",
    "csrc/gradient_hooks.cpp",
    "csrc/linear.cpp",
    "csrc/lowered.cpp",
    "csrc/measure.cpp",
    "csrc/product.cpp",
    "csrc/profile.cpp",
    "csrc/residual.cpp",
    "csrc/talent_torch.cpp",
    "csrc/transfer.cpp",
];

#[allow(clippy::print_stdout, reason = "cargo listens there")]
fn main() {
    println!("cargo:rerun-if-changed=csrc");
    // Set by torch-sys; absent under `--features tch/doc-only`, where nothing is linked.
    let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") else { return };
    let lib = PathBuf::from(lib);
    println!("cargo:libtorch_lib={}", lib.display());
    // For other crates' bindings: `guarded.h`.
    println!("cargo:include={}/csrc", env!("CARGO_MANIFEST_DIR"));
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
    build.files(SOURCES).compile("talent_torch");
    link_to(&lib);
}
