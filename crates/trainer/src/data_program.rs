//! Runs the `data` commands. They are a separate program, which needs no libtorch and reads formats that training does not.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, anyhow, ensure};

/// Replaces this process (`exec`) by the program `talent-data` in the same folder as this one.
///
/// # Errors
/// When the program is missing or cannot be started. On success this does not return.
pub(crate) fn become_data_program(args: &[OsString]) -> Result<()> {
    let own = std::env::current_exe().context("where this program is")?;
    let program = own.with_file_name("talent-data");
    ensure!(
        program.is_file(),
        "{}: the `data` commands are in this program, which is not there; `cargo build --release -p data-cli` builds it",
        program.display()
    );
    // `exec` would pass a file that is not an ELF program to a shell.
    let mut magic = [0; 4];
    let is_program =
        File::open(&program).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *b"\x7fELF";
    ensure!(is_program, "{}: this is no program; build it anew", program.display());
    let error = Command::new(&program).args(args).exec();
    Err(anyhow!(error).context(program.display().to_string()))
}
