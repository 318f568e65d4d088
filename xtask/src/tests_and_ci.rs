use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;
use cli_kit::outln;

use crate::guests;
use crate::pack::trial;
use crate::project::{cargo, run};
use crate::setup::setup;
use crate::{wheel, worked_changes};

/// All tests of the workspace, in the release profile that the programs use too.
///
/// - args: go to `cargo test`
pub(crate) fn test(args: &[OsString]) -> Result<()> {
    let libtorch = setup()?;
    if !args.is_empty() {
        return run(cargo_test(&libtorch.path).args(args));
    }
    // Examples are left to `guests`: every crate has a `quickstart`, and the programs would overwrite each other.
    run(cargo_test(&libtorch.path).args(["--lib", "--bins", "--tests"]))?;
    run(cargo_test(&libtorch.path).arg("--doc"))
}

/// `cargo test` of the workspace.
fn cargo_test(libtorch: &Path) -> Command {
    let mut command = cargo();
    command.env("LIBTORCH", libtorch).args(["test", "--release", "--workspace", "--locked"]);
    // A library that Python loads, which a test program cannot link; `wheel` tests it from Python.
    command.args(["--exclude", "python"]);
    command
}

/// Tests again as on other processors. With AVX2 alone, which most laptops have, ATen and oneDNN choose other code; products of float32
/// come from oneDNN or from MKL, by the kind of processor.
fn test_as_elsewhere(libtorch: &Path) -> Result<()> {
    let mut command = cargo_test(libtorch);
    command
        .env("ATEN_CPU_CAPABILITY", "avx2")
        .env("ONEDNN_MAX_CPU_ISA", "AVX2")
        .env("TALENT_PRODUCTS", "onednn");
    run(command.args(["products", "recompute", "recordings"].iter().flat_map(|name| ["--test", name])))?;
    // libtorch has MKL for x86 alone.
    match cfg!(target_arch = "x86_64") {
        true => run(cargo_test(libtorch)
            .env("TALENT_PRODUCTS", "mkl")
            .env("MKL_ENABLE_INSTRUCTIONS", "AVX2")
            .args(["--test", "products"])),
        false => Ok(()),
    }
}

/// Crates on libtorch that other projects depend on, and the network that is made of them.
const WITHOUT_DEFAULT_FEATURES: [&str; 7] =
    ["torch-ext", "c10d", "rca", "backbone", "adapters", "tlm-losses", "talent"];

/// Tests without the CPU kernels of `torch-ext`, so that libtorch computes everything, and without Gloo.
fn test_without_default_features() -> Result<()> {
    let libtorch = setup()?;
    let mut command = cargo();
    command.env("LIBTORCH", &libtorch.path).args(["test", "--release", "--locked", "--no-default-features"]);
    command.args(["--lib", "--tests"]).args(WITHOUT_DEFAULT_FEATURES.iter().flat_map(|name| ["-p", name]));
    run(&mut command)
}

/// Formatting, clippy with warnings denied, tests, documentation, projects that depend on single crates, and a pack and a Python
/// wheel that are made and tried.
pub(crate) fn ci() -> Result<()> {
    let mut times = Times::default();
    let done = parts_of_ci(&mut times);
    outln!("{times}");
    done
}

/// How long the parts of `ci` took.
#[derive(Debug, Default)]
struct Times(Vec<(&'static str, Duration)>);

impl Times {
    fn of<T>(&mut self, part: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let started = Instant::now();
        let done = work();
        self.0.push((part, started.elapsed()));
        done
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let total: Duration = self.0.iter().map(|(_, time)| *time).sum();
        for (part, time) in &self.0 {
            writeln!(f, "ci: {:6.0} s  {part}", time.as_secs_f64())?;
        }
        write!(f, "ci: {:6.0} s  all", total.as_secs_f64())
    }
}

fn parts_of_ci(times: &mut Times) -> Result<()> {
    times.of("formatting", || run(cargo().args(["fmt", "--all", "--check"])))?;
    let libtorch = times.of("set-up", setup)?;
    // The release profile, so that dependencies with build scripts are compiled once for clippy and tests.
    let clippy = ["clippy", "--release", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    times.of("clippy", || run(cargo().env("LIBTORCH", &libtorch.path).args(clippy)))?;
    // Other projects switch its tokenizers off to build faster.
    let alone =
        ["clippy", "--release", "-p", "refcoco", "--no-default-features", "--locked", "--", "-D", "warnings"];
    times.of("clippy without tokenizers", || run(cargo().args(alone)))?;
    times.of("building the tests", || {
        run(cargo_test(&libtorch.path).args(["--lib", "--bins", "--tests", "--no-run"]))
    })?;
    times.of("tests", || test(&[]))?;
    times.of("tests as elsewhere", || test_as_elsewhere(&libtorch.path))?;
    times.of("tests without default features", test_without_default_features)?;
    let doc = ["doc", "--release", "--workspace", "--no-deps", "--locked"];
    times.of("documentation", || {
        run(cargo().env("LIBTORCH", &libtorch.path).env("RUSTDOCFLAGS", "-D warnings").args(doc))
    })?;
    times.of("guests", guests::guests)?;
    times.of("worked changes", worked_changes::try_out)?;
    times.of("pack", trial::try_out)?;
    times.of("wheel", wheel::try_out)
}
