//! Helpers for build scripts of packages that use libtorch.
//!
//! A package with a program, test, benchmark or example that uses libtorch needs a `build.rs` whose `main` calls
//! [`link_programs`].

mod headers;
#[cfg(feature = "compile")]
mod shared_library;
#[cfg(feature = "compile")]
mod single_unit;

use std::path::Path;

pub use headers::{beside_package, nvidia_headers};
#[cfg(feature = "compile")]
pub use shared_library::shared_library;
#[cfg(feature = "compile")]
pub use single_unit::single_unit;

/// Lets the programs of a package find libtorch. For the build script of a package that depends on `torch-ext`.
///
/// Linker arguments from the build script of a dependency do not apply to the programs of dependent packages, so each package
/// must set the run-time search path itself. A library with a `links` key passes libtorch's folder to the build scripts of its
/// dependants as `DEP_<links>_LIBTORCH_LIB`, for packages that depend on that library alone (`docs/guest-build.rs`).
pub fn link_programs() {
    if let Ok(lib) = std::env::var("DEP_TALENT_TORCH_EXT_LIBTORCH_LIB") {
        link_to(Path::new(&lib));
    }
}

/// As [`link_programs`], with the path of libtorch's folder `lib`. Without `-ltorch` libtorch's CUDA libraries would not be
/// loaded.
#[allow(clippy::print_stdout, reason = "cargo listens there")]
pub fn link_to(lib: &Path) {
    println!("cargo:libtorch_lib={}", lib.display());
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    println!("cargo:rustc-link-arg=-Wl,--no-as-needed,-ltorch");
}
