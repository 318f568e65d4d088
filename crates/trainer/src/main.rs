//! The `talent` program.

fn main() -> std::process::ExitCode {
    data_cli::conclude(trainer::cli::run())
}
