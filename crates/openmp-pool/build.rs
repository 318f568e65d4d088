//! Compiles the pool.

#[allow(clippy::print_stdout, reason = "cargo listens there")]
fn main() {
    println!("cargo:rerun-if-changed=csrc");
    cc::Build::new()
        .cpp(true)
        .std("c++20")
        .files([
            "csrc/crowding.cpp",
            "csrc/openmp.cpp",
            "csrc/pool.cpp",
            "csrc/spin.cpp",
            "csrc/team.cpp",
            "csrc/waiting.cpp",
        ])
        .compile("openmp_pool");
}
