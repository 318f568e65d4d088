//! The `talent-data` program: what `cargo xtask data` runs.

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    data_cli::run(&args)
}
