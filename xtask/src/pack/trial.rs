//! Tests a pack: moved to another folder, with another Python environment, without cargo, and with no environment variables but PATH
//! and HOME.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use cli_kit::outln;
use serde_json::Value;

use crate::libtorch::Libtorch;
use crate::project::{root, run_aside};
use crate::setup::setup;

/// Makes a pack and tests it. On success its folder is removed.
pub(crate) fn try_out() -> Result<()> {
    let folder = root().join("target/pack-trial");
    let _ = std::fs::remove_dir_all(&folder);
    let made = folder.join("made");
    super::pack(&["--out".into(), made.clone().into(), "--archive".into()])?;
    ensure!(folder.join("made.tar.gz").is_file(), "there is no archive");
    let moved = folder.join("moved to another place");
    std::fs::rename(&made, &moved).with_context(|| moved.display().to_string())?;

    let libtorch = setup()?;
    let bare = folder.join("bare");
    environment(&bare, None)?;
    let without = run(&moved, &bare, &["devices"])?;
    let said = String::from_utf8_lossy(&without.stderr);
    ensure!(!without.status.success() && said.contains("has no PyTorch"), "without PyTorch it says: {said}");
    let without_torch = run(&moved, &bare, &["data", "list", "--data-root", "datasets"])?;
    ensure!(without_torch.status.success(), "`talent data` needs PyTorch");

    let venv = folder.join("venv");
    environment(&venv, Some(&libtorch))?;
    let devices = run(&moved, &venv, &["devices"])?;
    let devices: Value = serde_json::from_slice(&devices.stdout)
        .with_context(|| format!("`talent devices`: {}", String::from_utf8_lossy(&devices.stderr)))?;
    for key in ["nccl_library", "graphs_library"] {
        let library = devices[key].as_str().map(PathBuf::from).context(key)?;
        ensure!(library.starts_with(&moved), "{key} is {}, outside of the pack", library.display());
    }
    let check = run(&moved, &venv, &["check-device", "--device", "cpu", "--quick", "--json", "check.json"])?;
    outln!("{}", String::from_utf8_lossy(&check.stdout).trim_end());
    ensure!(check.status.success(), "check-device fails in a pack: {}", check.status);
    let report: Value = serde_json::from_slice(&std::fs::read(folder.join("check.json"))?)?;
    let parts = report["parts"].as_array().context("the report has no parts")?;
    let passed = parts.iter().filter(|part| part["status"] == "passed").count();
    ensure!(passed >= 10, "only {passed} parts passed");
    std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())
}

/// Creates a virtual environment that sees the Python packages beside a libtorch, or none.
fn environment(at: &Path, libtorch: Option<&Libtorch>) -> Result<()> {
    run_aside(Command::new("python3").args(["-m", "venv", "--without-pip"]).arg(at))?;
    let Some(libtorch) = libtorch else { return Ok(()) };
    let package = libtorch.path.canonicalize()?;
    let packages = package.parent().context("libtorch lies nowhere")?;
    let libraries =
        std::fs::read_dir(at.join("lib"))?.flatten().map(|entry| entry.path().join("site-packages"));
    let own = libraries.into_iter().find(|path| path.is_dir()).context("the environment has no packages")?;
    std::fs::write(own.join("torch.pth"), format!("{}\n", packages.display()))?;
    Ok(())
}

/// Runs the pack's launcher with the folder beside the pack as working directory.
fn run(pack: &Path, environment: &Path, args: &[&str]) -> Result<Output> {
    let path = format!("{}:/usr/bin:/bin", environment.join("bin").display());
    let launcher = pack.join("talent");
    let mut command = Command::new(&launcher);
    command.args(args).current_dir(pack.parent().unwrap_or(pack)).env_clear();
    command.env("PATH", path).env("HOME", std::env::var_os("HOME").unwrap_or_default());
    command.output().with_context(|| launcher.display().to_string())
}
