//! The `talent` program.

/// The system's allocator gives large blocks back at once, and every sample would fault its pages in anew.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    data_cli::conclude(trainer::cli::run())
}
