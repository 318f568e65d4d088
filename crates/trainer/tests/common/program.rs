//! The `talent` program under test.

use std::ffi::OsStr;
use std::process::{Command, Output};

/// Runs the program without `RUST_BACKTRACE`: backtraces would be mixed with the errors that tests check.
pub(crate) fn talent(args: &[impl AsRef<OsStr>]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_talent")).env_remove("RUST_BACKTRACE").args(args).output().unwrap()
}
