use std::ffi::OsString;

use anyhow::Result;

use crate::pack::trial;
use crate::project::{cargo, run};
use crate::setup::setup;

/// All tests of the workspace, in the release profile that the programs use too.
pub(crate) fn test(args: &[OsString]) -> Result<()> {
    let libtorch = setup()?;
    run(cargo()
        .env("LIBTORCH", &libtorch.path)
        .args(["test", "--release", "--workspace", "--locked"])
        .args(args))
}

/// Formatting, clippy with warnings denied, tests, and a pack that is made and tried.
pub(crate) fn ci() -> Result<()> {
    run(cargo().args(["fmt", "--all", "--check"]))?;
    let libtorch = setup()?;
    // The release profile, so that dependencies with build scripts are compiled once for clippy and tests.
    let clippy = ["clippy", "--release", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    run(cargo().env("LIBTORCH", &libtorch.path).args(clippy))?;
    test(&[])?;
    trial::try_out()
}
