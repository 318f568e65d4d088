//! The `talent-data` program: the `data` commands without libtorch.

use std::process::ExitCode;

use command_kit::as_errors;

/// The system's allocator returns large blocks to the kernel at once, so every sample would page-fault them in again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    command_kit::conclude(as_errors(|| data_cli::run(&args)).map(|()| ExitCode::SUCCESS))
}
