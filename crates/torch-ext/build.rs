//! Compiles the C++ shim against the libtorch that torch-sys found, and hands its folder on to dependants.

use std::path::PathBuf;

const SOURCES: [&str; 10] = [
    "csrc/attention.cpp",
    "csrc/custom_gradient.cpp",
    "csrc/dropout.cpp",
    "csrc/linear.cpp",
    "csrc/lowered.cpp",
    "csrc/measure.cpp",
    "csrc/product.cpp",
    "csrc/profile.cpp",
    "csrc/talent_torch.cpp",
    "csrc/transfer.cpp",
];

fn main() {
    println!("cargo:rerun-if-changed=csrc");
    // Set by torch-sys; absent under `--features tch/doc-only`, where nothing is linked.
    let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") else { return };
    let lib = PathBuf::from(lib);
    println!("cargo:libtorch_lib={}", lib.display());
    // For other crates' bindings: `guarded.h`.
    println!("cargo:include={}/csrc", env!("CARGO_MANIFEST_DIR"));
    let Some(root) = lib.parent() else { return };
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .warnings(false)
        .include(root.join("include"))
        .include(root.join("include/torch/csrc/api/include"))
        .files(SOURCES)
        .compile("talent_torch");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    println!("cargo:rustc-link-arg=-Wl,--no-as-needed,-ltorch");
}
