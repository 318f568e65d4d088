use std::path::{Path, PathBuf};

use crate::headers::nvidia_headers;

/// Compiles `source` into the shared library `name` in the build's output folder, and returns its path. The library is compiled
/// with the CUDA headers and loaded only when a GPU is used, so the program also runs with a CPU build of libtorch. The library
/// does not link libtorch, because the process has already loaded it by then.
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
