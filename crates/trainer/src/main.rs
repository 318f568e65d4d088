//! The `talent` program.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    trainer::allocator::keep_memory_between_steps();
    command_kit::conclude(command_kit::as_errors(trainer::cli::run))
}
