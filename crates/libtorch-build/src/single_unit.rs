use std::path::Path;

/// Adds `sources` (paths from the package's folder) to `build` as one translation unit, a "unity build". Most of the time of compiling a
/// source on libtorch goes into its headers and the templates they bring, which one unit compiles once. So names in unnamed
/// namespaces must differ between the sources, too.
///
/// # Panics
/// When the build's output folder cannot be written, as build scripts do.
pub fn single_unit(build: &mut cc::Build, sources: &[&str]) {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    let unit = Path::new(&std::env::var_os("OUT_DIR").unwrap_or_default()).join("unit.cpp");
    let include = |source: &&str| format!("#include \"{}\"\n", Path::new(&package).join(source).display());
    let text: String = sources.iter().map(include).collect();
    std::fs::write(&unit, text).expect("the build's output folder can be written");
    build.file(&unit);
}
