//! The `talent` program.

fn main() -> anyhow::Result<()> {
    trainer::cli::run()
}
