//! `wheel`: builds the Python package `talent_ris`, and tries it in a fresh virtual environment.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use cli_kit::{errln, outln};

use crate::project::{cargo, program, root, run_aside, target};
use crate::setup::{python, setup};

/// Builds extension modules, and knows the rules for wheels that run on other machines.
const MATURIN: &str = "maturin==1.16.0";

/// Largest size of the wheel in bytes.
const MOST_BYTES: u64 = 30 << 20;

const USAGE: &str = "cargo xtask wheel --out DIR [--test]";

/// - args: `--out DIR`, and `--test` to also try the wheel
pub(crate) fn wheel(args: &[OsString]) -> Result<()> {
    let (mut out, mut with_tests) = (None, false);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("--out") => out = Some(PathBuf::from(args.next().context("--out needs a folder")?)),
            Some("--test") => with_tests = true,
            Some("--help" | "-h") => {
                outln!(
                    "{USAGE}\n\nBuilds the Python package talent_ris as one .whl in DIR. --test installs it into a fresh virtual environment and runs its tests."
                );
                return Ok(());
            }
            _ => bail!("unknown argument {}; usage: {USAGE}", arg.display()),
        }
    }
    let out = std::path::absolute(out.with_context(|| format!("--out is missing; usage: {USAGE}"))?)?;
    let wheel = build(&out)?;
    if with_tests {
        try_wheel(&wheel)?;
    }
    outln!("{}", wheel.display());
    Ok(())
}

/// Builds the wheel and runs its tests.
pub(crate) fn try_out() -> Result<()> {
    try_wheel(&build(&target().join("wheel"))?)
}

fn wheels_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("talent_ris-") && name.ends_with(".whl")
    };
    Ok(paths.into_iter().filter(is_ours).collect())
}

/// Builds the wheel. Earlier ones in the folder are removed once the new one is made.
fn build(out: &Path) -> Result<PathBuf> {
    let made = target().join("wheel-made");
    let _ = std::fs::remove_dir_all(&made);
    std::fs::create_dir_all(&made).with_context(|| made.display().to_string())?;
    let maturin = maturin()?;
    errln!("wheel: building talent_ris");
    run_aside(
        Command::new(maturin)
            .current_dir(root())
            .args(["build", "--quiet", "--release", "--strip", "--locked"])
            .arg("--manifest-path")
            .arg(root().join("crates/python/Cargo.toml"))
            .arg("--target-dir")
            .arg(target())
            .arg("--out")
            .arg(&made),
    )?;
    let made = match &wheels_in(&made)?[..] {
        [one] => one.clone(),
        all => bail!("{}: maturin made {} wheels, not one", made.display(), all.len()),
    };
    let n_bytes = std::fs::metadata(&made)?.len();
    ensure!(n_bytes <= MOST_BYTES, "{}: {n_bytes} bytes, more than {MOST_BYTES}", made.display());
    std::fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    let wheel = out.join(made.file_name().unwrap_or_default());
    // Copied beside its place and renamed, so that no half wheel is ever there.
    let part = wheel.with_extension("whl.part");
    std::fs::copy(&made, &part).with_context(|| part.display().to_string())?;
    for earlier in wheels_in(out)? {
        std::fs::remove_file(&earlier).with_context(|| earlier.display().to_string())?;
    }
    std::fs::rename(&part, &wheel).with_context(|| wheel.display().to_string())?;
    errln!("wheel: {:.1} MiB", n_bytes as f64 / f64::from(1 << 20));
    Ok(wheel)
}

/// A virtual environment with these packages, made anew.
fn environment(folder: &Path, packages: &[&Path]) -> Result<()> {
    let _ = std::fs::remove_dir_all(folder);
    run_aside(Command::new(python()?).args(["-m", "venv"]).arg(folder))?;
    run_aside(
        Command::new(folder.join("bin/python"))
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .args(packages),
    )
    .context("pip could not install what the wheel needs; check the network and pip's index")
}

fn maturin() -> Result<PathBuf> {
    let tools = target().join("wheel-tools");
    let marker = tools.join(MATURIN);
    if !marker.is_file() {
        errln!("wheel: installing {MATURIN} into {}", tools.display());
        environment(&tools, &[Path::new(MATURIN)])?;
        std::fs::write(&marker, "").with_context(|| marker.display().to_string())?;
    }
    Ok(tools.join("bin/maturin"))
}

/// Installs the wheel beside NumPy alone and runs its tests; those about PyTorch see the libtorch that the project uses.
fn try_wheel(wheel: &Path) -> Result<()> {
    let folder = target().join("wheel-test");
    let _ = std::fs::remove_dir_all(&folder);
    let (venv, data) = (folder.join("venv"), folder.join("data"));
    errln!("wheel: installing it into a fresh virtual environment");
    environment(&venv, &[wheel])?;
    let few = ["--set", "train_images=20", "val_images=5", "test_a_images=2", "test_b_images=2"];
    run_aside(
        Command::new(venv.join("bin/talent-data")).arg("synth").arg("--data-root").arg(&data).args(few),
    )?;
    let reference = folder.join("reference.json");
    run_aside(cargo().args([
        "build",
        "--release",
        "--quiet",
        "--locked",
        "-p",
        "python",
        "--example",
        "reference",
    ]))?;
    let found = Command::new(program("examples/reference")).arg("refshapes").arg(&data).output()?;
    ensure!(found.status.success(), "the reference failed: {}", String::from_utf8_lossy(&found.stderr));
    std::fs::write(&reference, found.stdout).with_context(|| reference.display().to_string())?;
    let tests = |module: &str| {
        let mut command = Command::new(venv.join("bin/python"));
        command.current_dir(root().join("crates/python/tests")).args(["-B", "-m", "unittest", module]);
        command.env("TALENT_RIS_DATA", &data).env("TALENT_RIS_REFERENCE", &reference);
        command
    };
    run_aside(&mut tests("test_package"))?;
    let torch = setup()?.path.canonicalize()?;
    match torch.parent().filter(|_| torch.join("__init__.py").is_file()) {
        Some(packages) => run_aside(tests("test_torch").env("PYTHONPATH", packages)),
        None => {
            errln!(
                "wheel: {} is no Python package, so that the tests with PyTorch's DataLoader cannot run",
                torch.display()
            );
            Ok(())
        }
    }
}
