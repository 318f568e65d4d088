//! What build scripts of packages on libtorch share.
//!
//! A package with a program, test, bench or example on libtorch has a `build.rs` whose `main` calls [`link_programs`].

mod headers;
#[cfg(feature = "compile")]
mod shared_library;

use std::path::Path;

pub use headers::{beside_package, nvidia_headers};
#[cfg(feature = "compile")]
pub use shared_library::shared_library;

/// Lets a package's programs find libtorch: a build script of a package that depends on `torch-ext`.
///
/// Linker arguments of a dependency's build script do not reach the programs of its dependants, so each of them needs the
/// run-time search path itself.
pub fn link_programs() {
    if let Ok(lib) = std::env::var("DEP_TALENT_TORCH_EXT_LIBTORCH_LIB") {
        link_to(Path::new(&lib));
    }
}

/// The same with libtorch's folder `lib` named. Without `-ltorch` the CUDA half would stay unloaded.
#[allow(clippy::print_stdout, reason = "cargo listens there")]
pub fn link_to(lib: &Path) {
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    println!("cargo:rustc-link-arg=-Wl,--no-as-needed,-ltorch");
}
