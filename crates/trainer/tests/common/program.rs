//! The `talent` program under test.

use std::ffi::OsStr;
use std::process::{Command, Output};

/// Runs the program. Whoever asks for backtraces would get them beside the errors that tests look at.
pub(crate) fn talent(args: &[impl AsRef<OsStr>]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_talent")).env_remove("RUST_BACKTRACE").args(args).output().unwrap()
}
