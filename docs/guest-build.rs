//! The build script (`build.rs`) of a package of your own that depends on this project's crates on libtorch. By it the package's
//! programs find libtorch without LD_LIBRARY_PATH, and load its CUDA half where there is one.
fn main() {
    std::env::vars().filter(|(name, _)| name.ends_with("_LIBTORCH_LIB")).take(1).for_each(|(_, lib)| println!("cargo:rustc-link-arg=-Wl,-rpath,{lib},--no-as-needed,-ltorch"));
}
