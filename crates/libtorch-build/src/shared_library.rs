use std::path::{Path, PathBuf};

use crate::headers::nvidia_headers;

/// Compiles `source` into the shared library `name` of the build's output folder, and returns its path. Such a library is compiled
/// with CUDA's headers and loaded when a GPU is to be used: a program that has it runs with a libtorch for CPUs, too. What it needs
/// of libtorch is in the process by then.
///
/// # Panics
/// When the compiler fails, as build scripts do.
pub fn shared_library(base: &cc::Build, libtorch: &Path, source: &str, name: &str) -> PathBuf {
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
