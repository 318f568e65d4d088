//! The `talent-results` program: tables, plots and reports of runs.

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    command_kit::conclude(command_kit::as_errors(|| results::run(&args)).map(|()| ExitCode::SUCCESS))
}
