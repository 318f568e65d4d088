//! The `talent` program.

fn main() -> anyhow::Result<std::process::ExitCode> {
    trainer::cli::run()
}
