//! `setup`: finds or installs libtorch. It is idempotent and may be interrupted or run concurrently: a lock admits one process, an
//! unfinished installation is made anew, and the link is replaced last, by an atomic rename.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cli_kit::errln;

use crate::ahead::Ahead;
use crate::libtorch::{Libtorch, VERSION, from_environment, of_python};
use crate::lock::Lock;
use crate::project::{output_of, root, run_aside};

/// Free disk space in GiB that installing the wheel needs.
const DISK_GIB: f64 = 8.0;

/// Finds or installs libtorch, and prints a line for each step.
pub(crate) fn setup() -> Result<Libtorch> {
    let root = root();
    let link = root.join(".libtorch");
    check_compiler()?;
    if let Some(path) = from_environment(&link) {
        let found = Libtorch::check(&path).context("LIBTORCH is set; unset it to let the set-up choose")?;
        say(&format!("using LIBTORCH={} ({})", path.display(), describe(&found)));
        return Ok(found);
    }
    // The usual case: nothing to do, nothing to print.
    if let Ok(found) = Libtorch::check(&link) {
        return Ok(found);
    }
    let _lock = Lock::wait(&root.join(".libtorch.lock"))?;
    if let Ok(found) = Libtorch::check(&link) {
        say("another set-up has linked .libtorch meanwhile");
        return Ok(found);
    }
    let found = find_or_install(&root)?;
    relink(&link, &found.path)?;
    say(&format!("linked .libtorch -> {} ({})", found.path.display(), describe(&found)));
    Libtorch::check(&link)
}

/// The libtorch that is linked already; installs nothing.
pub(crate) fn present() -> Option<Result<Libtorch>> {
    let link = root().join(".libtorch");
    match from_environment(&link) {
        Some(path) => Some(Libtorch::check(&path)),
        None => std::fs::symlink_metadata(&link).is_ok().then(|| Libtorch::check(&link)),
    }
}

fn say(line: &str) {
    errln!("setup: {line}");
}

fn describe(found: &Libtorch) -> String {
    format!("torch {}, {}", found.version, if found.has_cuda { "with CUDA" } else { "CPU only" })
}

fn check_compiler() -> Result<()> {
    let compiler = std::env::var("CXX").ok().filter(|name| !name.is_empty());
    let candidates =
        compiler.map_or_else(|| vec!["c++".to_owned(), "g++".into(), "clang++".into()], |name| vec![name]);
    let found = candidates.iter().any(|name| output_of(Path::new(name), &["--version"]).is_some());
    ensure!(
        found,
        "no C++ compiler ({}); install one, for example with `apt-get install g++` or `dnf install gcc-c++`",
        candidates.join(", ")
    );
    Ok(())
}

fn pythons() -> Vec<PathBuf> {
    let mut candidates: Vec<PathBuf> = Vec::new();
    if let Some(active) = std::env::var_os("VIRTUAL_ENV") {
        candidates.push(Path::new(&active).join("bin/python"));
    }
    if let Some(active) = std::env::var_os("CONDA_PREFIX") {
        candidates.push(Path::new(&active).join("bin/python"));
    }
    candidates.extend(["python3", "python"].map(PathBuf::from));
    candidates.retain(|python| python_version(python).is_some());
    candidates
}

fn python_version(python: &Path) -> Option<(u32, u32)> {
    let text = output_of(python, &["-c", "import sys; print(sys.version_info[0], sys.version_info[1])"])?;
    let (major, minor) = text.split_once(' ')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn find_or_install(root: &Path) -> Result<Libtorch> {
    let pythons = pythons();
    for python in &pythons {
        let Some(path) = of_python(python) else { continue };
        match Libtorch::check(&path) {
            Ok(found) => {
                say(&format!("{} already has torch {}", python.display(), found.version));
                return Ok(found);
            }
            Err(error) => say(&format!("not using {}'s torch: {error}", python.display())),
        }
    }
    let venv = root.join(".venv");
    if let Some(path) = of_python(&venv.join("bin/python"))
        && venv.join(".complete").is_file()
        && let Ok(found) = Libtorch::check(&path)
    {
        return Ok(found);
    }
    let python = new_enough(&pythons)?;
    install(python, &venv)
}

/// The first Python that is new enough for virtual environments with what the project installs.
fn new_enough(pythons: &[PathBuf]) -> Result<&PathBuf> {
    let found =
        pythons.iter().find(|python| python_version(python).is_some_and(|version| version >= (3, 10)));
    found.with_context(|| {
        format!(
            "no Python 3.10 or newer was found; install one (for example `apt-get install python3 python3-venv`), or set LIBTORCH to a libtorch {VERSION} folder"
        )
    })
}

/// A Python of this machine that is new enough; that of the project's virtual environment, if there is one.
pub(crate) fn python() -> Result<PathBuf> {
    let own = root().join(".venv/bin/python");
    let candidates: Vec<PathBuf> = std::iter::once(own).chain(pythons()).collect();
    new_enough(&candidates).cloned()
}

/// Creates the virtual environment and installs the wheel. A file `.complete` marks a finished installation.
fn install(python: &Path, venv: &Path) -> Result<Libtorch> {
    let free = free_gib(venv.parent().unwrap_or(Path::new(".")))?;
    ensure!(
        free >= DISK_GIB,
        "only {free:.1} GiB are free here, and installing torch needs about {DISK_GIB:.0}; make room, or set LIBTORCH to a libtorch {VERSION} folder elsewhere"
    );
    if venv.exists() {
        say("removing an unfinished .venv");
        std::fs::remove_dir_all(venv).with_context(|| venv.display().to_string())?;
    }
    say(&format!("creating .venv with {}", python.display()));
    run_aside(Command::new(python).args(["-m", "venv"]).arg(venv)).context(
        "creating a virtual environment failed; Debian and Ubuntu have the module in the package python3-venv",
    )?;
    say(&format!(
        "installing torch {VERSION} into .venv (about 2.7 GB to download), compiling what needs no libtorch meanwhile"
    ));
    let ahead = Ahead::start();
    let inside = venv.join("bin/python");
    run_aside(
        Command::new(&inside)
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .arg(format!("torch=={VERSION}")),
    )
    .with_context(|| format!("pip could not install torch {VERSION}; check the network and pip's index"))?;
    drop(ahead);
    let path = of_python(&inside).context("pip finished but .venv has no torch")?;
    let found = Libtorch::check(&path)?;
    std::fs::write(venv.join(".complete"), "").with_context(|| venv.display().to_string())?;
    Ok(found)
}

/// Replaces the symlink atomically: creates a new one under another name, then renames it over the old one.
fn relink(link: &Path, target: &Path) -> Result<()> {
    let shown = || link.display().to_string();
    let temporary = link.with_extension(format!("new-{}", std::process::id()));
    let _ = std::fs::remove_file(&temporary);
    std::os::unix::fs::symlink(target, &temporary).with_context(shown)?;
    std::fs::rename(&temporary, link).with_context(shown)
}

fn free_gib(folder: &Path) -> Result<f64> {
    let stats = rustix::fs::statvfs(folder).with_context(|| folder.display().to_string())?;
    Ok(stats.f_bavail as f64 * stats.f_frsize as f64 / f64::from(1 << 30))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relinking_replaces_a_broken_link() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join(".libtorch");
        std::os::unix::fs::symlink("/nowhere", &link).unwrap();
        relink(&link, folder.path()).unwrap();
        assert_eq!(std::fs::read_link(&link).unwrap(), folder.path());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn there_is_some_disk() {
        assert!(free_gib(Path::new(".")).unwrap() > 0.0);
    }
}
