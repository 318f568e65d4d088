//! The `talent` program.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    // As many as the control group's quota allows, not as the machine has.
    openmp_pool::install(std::thread::available_parallelism().map_or(1, usize::from));
    trainer::allocator::keep_memory_between_steps();
    command_kit::conclude(command_kit::as_errors(trainer::cli::run))
}
