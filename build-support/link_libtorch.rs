//! Build script shared by every package with a program, test or bench on libtorch.
//!
//! Linker arguments of a dependency's build script do not reach the programs of its dependants, so each of
//! them needs the run-time search path, and `-ltorch` without which the CUDA half stays unloaded.

#[allow(clippy::print_stdout, reason = "cargo listens there")]
fn main() {
    if let Ok(lib) = std::env::var("DEP_TALENT_TORCH_EXT_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
        println!("cargo:rustc-link-arg=-Wl,--no-as-needed,-ltorch");
    }
}
