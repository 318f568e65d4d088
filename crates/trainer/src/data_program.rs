//! The `data` commands are a program of their own, which needs no libtorch and reads formats that training does not.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, anyhow, ensure};

/// Becomes the program `talent-data`, which lies beside this one.
///
/// # Errors
/// When it is not there, or cannot be started. Otherwise this does not return.
pub(crate) fn become_data_program(args: &[OsString]) -> Result<()> {
    let own = std::env::current_exe().context("where this program is")?;
    let program = own.with_file_name("talent-data");
    ensure!(
        program.is_file(),
        "{}: the `data` commands are in this program, which is not there; `cargo build --release -p data-cli` builds it",
        program.display()
    );
    // A shell would be asked to run anything else.
    let mut magic = [0; 4];
    let is_program =
        File::open(&program).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *b"\x7fELF";
    ensure!(is_program, "{}: this is no program; build it anew", program.display());
    let error = Command::new(&program).args(args).exec();
    Err(anyhow!(error).context(program.display().to_string()))
}
