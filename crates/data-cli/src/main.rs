//! The `talent-data` program: the `data` commands without libtorch.

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    data_cli::conclude(data_cli::run(&args).map(|()| ExitCode::SUCCESS))
}
