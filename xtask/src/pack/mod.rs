//! `pack`: a folder that runs where there is no Rust toolchain.

mod headers;
mod program;
pub(crate) mod trial;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use cli_kit::{errln, outln};
use lexopt::prelude::*;
use serde_json::json;

use crate::forward::build_with;
use crate::libtorch::VERSION;
use crate::project::{self, cargo, output_of, root, run_aside};
use crate::setup::setup;

pub(crate) const HELP: &str = "\
cargo xtask pack --out DIR [--archive]

  --out DIR       the folder to make: programs, configs, descriptors, a small RefShapes, recordings, and the launcher
                  DIR/talent, which runs them with the libtorch of whatever python3 is on the PATH
  --archive       also write DIR.tar.gz

cargo xtask pack --trial    make one, try it at another place with nothing but PATH and HOME set, and remove it, as CI does";

/// Largest size of a pack in MiB.
const MOST_MIB: u64 = 44;
/// File that marks a folder as a pack, so that a new pack may replace it.
const MARK: &str = "pack.json";

struct Plan {
    out: PathBuf,
    archive: bool,
}

fn parse(args: &[OsString]) -> Result<Option<Plan>> {
    let (mut out, mut archive) = (None, false);
    let mut parser = lexopt::Parser::from_args(args);
    while let Some(arg) = parser.next()? {
        match arg {
            Short('h') | Long("help") => return Ok(None),
            Long("archive") => archive = true,
            Long("out") => out = Some(parser.value()?),
            _ => bail!("{}\n\n{HELP}", arg.unexpected()),
        }
    }
    let out = out.filter(|out| !out.is_empty()).with_context(|| format!("--out says where\n\n{HELP}"))?;
    Ok(Some(Plan { out: std::path::absolute(out)?, archive }))
}

pub(crate) fn pack(args: &[OsString]) -> Result<()> {
    if args == ["--trial"] {
        return trial::try_out();
    }
    let Some(Plan { out, archive }) = parse(args)? else {
        outln!("{HELP}");
        return Ok(());
    };
    ensure!(cfg!(all(target_os = "linux", target_arch = "x86_64")), "packs are for x86-64 Linux");
    may_be_replaced(&out)?;
    let libtorch = setup()?;
    let headers = headers::of_nvidia(&libtorch)?;
    let link_arguments = program::link_arguments(&glibc_version()?);
    let mut build = cargo();
    build.env("LIBTORCH", &libtorch.path).env("TALENT_NVIDIA_HEADERS", headers);
    build_with(&mut build, "trainer", "talent", &["nccl", "cuda-graphs"], link_arguments)?;
    build_with(&mut cargo(), "data-cli", "talent-data", &[], link_arguments)?;
    let talent = project::program("talent");

    let making = sibling(&out, &format!("new-{}", std::process::id()));
    let made = fill(&making, &talent).and_then(|()| {
        let size = size(&making)?;
        ensure!(size <= MOST_MIB << 20, "the pack takes {:.1} MiB, {MOST_MIB} are allowed", in_mib(size));
        replace(&making, &out)?;
        Ok(size)
    });
    if made.is_err() {
        let _ = std::fs::remove_dir_all(&making);
    }
    errln!("{}: {:.1} MiB", out.display(), in_mib(made?));
    if archive {
        write_archive(&out)?;
    }
    Ok(())
}

fn in_mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Refuses a target folder that is neither a pack nor empty.
fn may_be_replaced(out: &Path) -> Result<()> {
    let Ok(mut entries) = std::fs::read_dir(out) else {
        ensure!(
            std::fs::symlink_metadata(out).is_err(),
            "--out {}: there is a file of this name",
            out.display()
        );
        return Ok(());
    };
    let is_ours = out.join(MARK).is_file() || entries.next().is_none();
    ensure!(is_ours, "--out {}: the folder holds something that is no pack", out.display());
    Ok(())
}

fn sibling(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{ending}"));
    path.with_file_name(name)
}

fn fill(folder: &Path, talent: &Path) -> Result<()> {
    let bin = folder.join("bin");
    std::fs::create_dir_all(&bin).with_context(|| bin.display().to_string())?;
    // `talent-results` is left out: Polars alone takes 29 MB.
    let mut programs = vec![talent.to_path_buf(), project::program("talent-data")];
    programs.extend(libraries(talent)?);
    for program in &programs {
        program::copy_portable(program, &bin)?;
    }
    let root = root();
    copy_tree(&root.join("crates/trainer/configs"), &folder.join("configs"))?;
    copy_tree(&root.join("crates/parity/tests/golden"), &folder.join("golden"))?;
    let datasets = folder.join("datasets");
    std::fs::create_dir_all(&datasets).with_context(|| datasets.display().to_string())?;
    for entry in std::fs::read_dir(root.join("crates/refcoco/descriptors"))?.flatten() {
        if entry.path().extension().is_some_and(|ending| ending == "toml") {
            copy(&entry.path(), &datasets.join(entry.file_name()))?;
        }
    }
    let mut synth = Command::new(bin.join("talent-data"));
    synth.args(["synth", "--data-root"]).arg(&datasets).arg("--set");
    run_aside(synth.args(["train_images=64", "val_images=8", "test_a_images=4", "test_b_images=4"]))?;
    // Compressed it takes 8 MB in place of 24; the launcher unpacks it when it is first asked for.
    run_aside(Command::new("xz").arg("-6").arg(bin.join("talent-data")))
        .context("`xz` failed, which compresses a program of the pack; it is in the package xz-utils")?;
    for name in ["LICENSE-APACHE", "LICENSE-MIT"] {
        copy(&root.join(name), &folder.join(name))?;
    }
    let glibc = glibc_version()?;
    let filled = |text: &str| text.replace("@TORCH@", VERSION).replace("@GLIBC@", &glibc);
    write(&folder.join("README.md"), &filled(include_str!("README.md")))?;
    let launcher = folder.join("talent");
    write(&launcher, &filled(include_str!("talent.sh")))?;
    program::make_executable(&launcher)?;
    let commit = output_of(Path::new("git"), &["-C", &root.display().to_string(), "rev-parse", "HEAD"]);
    let about = json!({
        "version": env!("CARGO_PKG_VERSION"), "commit": commit, "torch": VERSION, "glibc": glibc,
    });
    write(&folder.join(MARK), &format!("{about:#}\n"))
}

/// Version of the glibc that the programs are built with, the oldest that they run with.
fn glibc_version() -> Result<String> {
    let said = output_of(Path::new("getconf"), &["GNU_LIBC_VERSION"]);
    let version = said.as_deref().and_then(|said| said.strip_prefix("glibc "));
    version
        .map(str::to_owned)
        .context("`getconf GNU_LIBC_VERSION` names no glibc; a pack is made on glibc only")
}

/// Paths of the NCCL and CUDA-graph libraries, as the built program reports them.
fn libraries(talent: &Path) -> Result<Vec<PathBuf>> {
    let devices = output_of(talent, &["devices"]).context("`talent devices` failed")?;
    let devices: serde_json::Value = serde_json::from_str(&devices).context("`talent devices`")?;
    let named = |key: &str| -> Result<PathBuf> {
        Ok(devices[key].as_str().with_context(|| format!("`talent devices` names no {key}"))?.into())
    };
    Ok(vec![named("nccl_library")?, named("graphs_library")?])
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| path.display().to_string())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::copy(from, to).map(|_| ()).with_context(|| format!("{} to {}", from.display(), to.display()))
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    for entry in std::fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() { copy_tree(&from, &to)? } else { copy(&from, &to)? }
    }
    Ok(())
}

fn size(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        sum += if path.is_dir() { size(&path)? } else { path.metadata()?.len() };
    }
    Ok(sum)
}

fn replace(made: &Path, out: &Path) -> Result<()> {
    let shown = || out.display().to_string();
    if out.exists() {
        let old = sibling(out, &format!("old-{}", std::process::id()));
        std::fs::rename(out, &old).with_context(shown)?;
        std::fs::rename(made, out).with_context(shown)?;
        return std::fs::remove_dir_all(&old).with_context(|| old.display().to_string());
    }
    if let Some(parent) = out.parent() {
        std::fs::create_dir_all(parent).with_context(shown)?;
    }
    std::fs::rename(made, out).with_context(shown)
}

fn write_archive(out: &Path) -> Result<()> {
    let archive = sibling(out, "tar.gz");
    let making = sibling(&archive, &format!("new-{}", std::process::id()));
    let (parent, name) = (out.parent().unwrap_or(Path::new("/")), out.file_name().unwrap_or_default());
    let done = run_aside(Command::new("tar").arg("-C").arg(parent).arg("-czf").arg(&making).arg(name))
        .and_then(|()| Ok(std::fs::rename(&making, &archive)?));
    if done.is_err() {
        let _ = std::fs::remove_file(&making);
    }
    done.with_context(|| archive.display().to_string())?;
    errln!("{}: {:.1} MiB", archive.display(), archive.metadata()?.len() as f64 / f64::from(1 << 20));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(list: &[&str]) -> Vec<OsString> {
        list.iter().map(OsString::from).collect()
    }

    #[test]
    fn what_is_no_pack_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        assert!(may_be_replaced(&folder.path().join("new")).is_ok());
        assert!(may_be_replaced(folder.path()).is_ok());
        std::fs::write(folder.path().join("thesis.tex"), "").unwrap();
        assert!(may_be_replaced(folder.path()).is_err());
        assert!(may_be_replaced(&folder.path().join("thesis.tex")).is_err());
        std::fs::write(folder.path().join(MARK), "").unwrap();
        assert!(may_be_replaced(folder.path()).is_ok());
    }

    #[test]
    fn options() {
        let plan = parse(&args(&["--out=a", "--archive"])).unwrap().unwrap();
        assert!(plan.archive && plan.out.ends_with("a") && plan.out.is_absolute());
        assert!(parse(&args(&["--help"])).unwrap().is_none());
        assert!(parse(&args(&[])).is_err() && parse(&args(&["--out", "a", "b"])).is_err());
    }

    #[test]
    fn a_pack_takes_the_place_of_another_whole() {
        let folder = tempfile::tempdir().unwrap();
        let (out, making) = (folder.path().join("pack"), folder.path().join("making"));
        for (place, name) in [(&out, "old"), (&making, "new")] {
            std::fs::create_dir_all(place).unwrap();
            std::fs::write(place.join(name), "").unwrap();
        }
        replace(&making, &out).unwrap();
        assert!(out.join("new").is_file() && !out.join("old").exists());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
