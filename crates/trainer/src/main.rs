//! The `talent` program.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    trainer::allocator::keep_memory_between_steps();
    data_cli::conclude(data_cli::panics::as_errors(trainer::cli::run))
}
