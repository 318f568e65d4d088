//! Builds a program and replaces this process by it (`exec`), so that signals and exit codes are the program's own.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Result, bail};
use cli_kit::errln;

use crate::project::{self, cargo, run_aside};
use crate::setup::setup;

/// Sets libtorch up, builds `talent`, and replaces this process by `talent COMMAND ARGS`.
pub(crate) fn to_talent(command: &str, args: &[OsString]) -> Result<()> {
    build_talent(&[])?;
    become_program("talent", command, args)
}

/// Sets libtorch up and builds `talent`; returns its path.
///
/// - features: features of the package `trainer`
pub(crate) fn build_talent(features: &[&str]) -> Result<PathBuf> {
    let libtorch = setup()?;
    let mut build = cargo();
    build.env("LIBTORCH", &libtorch.path);
    build_with(&mut build, "trainer", "talent", features, &[])?;
    Ok(project::program("talent"))
}

/// Builds `talent-data`, which needs no libtorch, and replaces this process by it.
pub(crate) fn to_data_program(command: &str, args: &[OsString]) -> Result<()> {
    build_quietly(&mut cargo(), "data-cli", "talent-data")?;
    become_program("talent-data", command, args)
}

/// Builds `talent-results`, which needs no libtorch, and replaces this process by it.
pub(crate) fn to_results_program(args: &[OsString]) -> Result<()> {
    build_quietly(&mut cargo(), "results", "talent-results")?;
    become_program("talent-results", "", args)
}

/// Builds a program; prints cargo's progress only when there is something to compile for the first time.
pub(crate) fn build_quietly(build: &mut Command, package: &str, program: &str) -> Result<()> {
    build_with(build, package, program, &[], &[])
}

/// As [`build_quietly`], with features of the package and arguments for the linker of the program.
pub(crate) fn build_with(
    build: &mut Command,
    package: &str,
    program: &str,
    features: &[&str],
    link_arguments: &[&str],
) -> Result<()> {
    // `cargo rustc` hands arguments to the program alone; as RUSTFLAGS they would have every dependency compiled anew.
    build.args([if link_arguments.is_empty() { "build" } else { "rustc" }, "--release", "--locked"]);
    build.args(["--package", package]);
    if !features.is_empty() {
        build.args(["--features", &features.join(",")]);
    }
    let what =
        format!("building {program} (minutes, if there is much to compile; or another build is in the way)");
    let is_there = project::program(program).is_file();
    if is_there {
        build.arg("--quiet");
    }
    if !link_arguments.is_empty() {
        build.args(["--bin", program, "--"]);
        build.args(link_arguments.iter().map(|argument| format!("-Clink-arg=-Wl,{argument}")));
    }
    if !is_there {
        errln!("{what}");
        return run_aside(build);
    }
    with_note(&what, || run_aside(build))
}

/// Carries out work, and says what it is if it takes more than three seconds.
fn with_note<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let (done, is_done) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if is_done.recv_timeout(Duration::from_secs(3)) == Err(RecvTimeoutError::Timeout) {
                errln!("{what}");
            }
        });
        let result = work();
        drop(done);
        result
    })
}

/// - command: goes in front of the arguments unless it is empty
fn become_program(program: &str, command: &str, args: &[OsString]) -> Result<()> {
    // Started in the user's working directory, so that relative paths work.
    let path = project::program(program);
    let error =
        Command::new(&path).args(Some(command).filter(|command| !command.is_empty())).args(args).exec();
    bail!("{}: {error}", path.display())
}
