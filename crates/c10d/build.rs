//! Compiles the binding against the libtorch that torch-sys found.

use std::path::PathBuf;

use libtorch_build::{link_to, shared_library, single_unit};

#[allow(clippy::print_stdout, reason = "cargo listens there")]
fn main() {
    println!("cargo:rerun-if-changed=csrc");
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
        .include(root.join("include/torch/csrc/api/include"));
    let mut sources = vec!["csrc/c10d.cpp"];
    if std::env::var_os("CARGO_FEATURE_GLOO").is_some() {
        build.define("USE_C10D_GLOO", None).include("csrc/declarations");
        sources.push("csrc/gloo.cpp");
    }
    if std::env::var_os("CARGO_FEATURE_NCCL").is_some() {
        let mut nccl = build.clone();
        nccl.define("USE_C10D_NCCL", None);
        let library = shared_library(&nccl, root, "csrc/nccl.cpp", "libtalent_nccl.so");
        println!("cargo:rustc-env=TALENT_NCCL_BUILT={}", library.display());
    }
    single_unit(&mut build, &sources);
    build.compile("talent_c10d");
    link_to(&lib);
}
