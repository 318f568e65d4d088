//! `guests`: projects outside of the workspace that depend on its crates by path, built and run with the documented set-up alone.

use std::ffi::OsStr;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cli_kit::outln;

use crate::project::{cargo, output_of, program, root, run_aside, target};
use crate::setup::setup;

/// The crates that others depend on.
const CRATES: [&str; 10] = [
    "adapters",
    "backbone",
    "c10d",
    "metrics",
    "rca",
    "refcoco",
    "safe-pickle",
    "tlm-losses",
    "torch-ext",
    "weight-files",
];

/// The crates among [`CRATES`] that need no libtorch.
const PURE: [&str; 4] = ["metrics", "refcoco", "safe-pickle", "weight-files"];

/// Makes, builds and runs two projects: one on all ten crates, which also holds each crate's quickstart as it stands, and one on
/// `tlm-losses` alone. Then lists what each crate's package holds.
pub(crate) fn guests() -> Result<()> {
    let folder = std::env::temp_dir().join(format!("talent-guests-{}", std::process::id()));
    let made = try_out(&folder);
    let _ = std::fs::remove_dir_all(&folder);
    made?;
    packages()
}

fn try_out(folder: &Path) -> Result<()> {
    let libtorch = setup()?;
    let all = Guest::new(folder, "guest-all", &CRATES)?;
    all.copy(&root().join("xtask/guests/all.rs"), "src/main.rs")?;
    for name in CRATES {
        let quickstart = root().join("crates").join(name).join("examples/quickstart.rs");
        all.copy(&quickstart, &format!("src/bin/{name}.rs"))?;
    }
    let losses = Guest::new(folder, "guest-losses", &["tlm-losses"])?;
    losses.copy(&root().join("crates/tlm-losses/examples/quickstart.rs"), "src/main.rs")?;
    for (guest, programs) in
        [(&all, &[&CRATES[..], &["guest-all"]].concat()), (&losses, &vec!["guest-losses"])]
    {
        guest.build(&libtorch.path)?;
        for program in programs {
            guest.run(program)?;
        }
    }
    Ok(())
}

/// A package outside of the workspace.
struct Guest {
    folder: PathBuf,
}

impl Guest {
    fn new(folder: &Path, name: &str, crates: &[&str]) -> Result<Self> {
        let guest = Self { folder: folder.join(name) };
        let mut manifest = format!(
            "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[workspace]\n\n[dependencies]\n\
             anyhow = \"1\"\ntch = {{ version = \"0.24\", default-features = false }}\n"
        );
        for name in crates {
            writeln!(manifest, "{name} = {{ path = {:?} }}", root().join("crates").join(name))?;
        }
        guest.write("Cargo.toml", &manifest)?;
        guest.copy(&root().join("docs/guest-build.rs"), "build.rs")?;
        // The lock file, so that the versions of dependencies are the workspace's.
        guest.copy(&root().join("Cargo.lock"), "Cargo.lock")?;
        Ok(guest)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.folder.join(name);
        std::fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
        std::fs::write(&path, text).with_context(|| path.display().to_string())
    }

    fn copy(&self, from: &Path, name: &str) -> Result<()> {
        let text = std::fs::read_to_string(from).with_context(|| from.display().to_string())?;
        self.write(name, &text)
    }

    fn build(&self, libtorch: &Path) -> Result<()> {
        let mut command = cargo();
        command.current_dir(&self.folder).args(["build", "--release", "--offline", "--quiet"]);
        // The workspace's target folder, so that compiled dependencies are shared.
        command.env("CARGO_TARGET_DIR", target()).env("LIBTORCH", libtorch).env_remove("LD_LIBRARY_PATH");
        run_aside(&mut command)
    }

    /// Runs a program with an empty environment, and checks what it says and what it was linked to.
    fn run(&self, name: &str) -> Result<()> {
        let program = program(name);
        let output = Command::new(&program).env_clear().current_dir(&self.folder).output();
        let output = output.with_context(|| program.display().to_string())?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        outln!("{}", said.lines().next().unwrap_or_default());
        let needed = output_of(Path::new("readelf"), &["-d", &program.to_string_lossy()]);
        let needed = needed.context("`readelf` failed; it is in the package binutils")?;
        ensure!(
            PURE.contains(&name) || needed.contains("[libtorch.so]"),
            "{name}: libtorch.so is no needed library, so CUDA stays unseen"
        );
        Ok(())
    }
}

/// Lists the files of each crate's package, and checks that its sources include no file from outside of its folder.
fn packages() -> Result<()> {
    for name in CRATES {
        let package = |list: &[&str]| {
            let mut command = cargo();
            command.args(["package", "--no-verify", "--exclude-lockfile", "--offline"]);
            let output = command.args(["--allow-dirty", "--quiet", "-p", name]).args(list).output()?;
            ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
            Ok(output)
        };
        package(&[])?;
        let output = package(&["--list"])?;
        let files = String::from_utf8_lossy(&output.stdout);
        for file in ["README.md", "LICENSE-MIT", "LICENSE-APACHE", "examples/quickstart.rs"] {
            ensure!(files.lines().any(|line| line == file), "the package {name} lacks {file}");
        }
        let reaching_out = outside(&root().join("crates").join(name));
        ensure!(reaching_out.is_empty(), "these reach outside of their package: {reaching_out:?}");
    }
    Ok(())
}

/// Source files that include a file from outside of the package.
fn outside(package: &Path) -> Vec<PathBuf> {
    let mut folders = vec![package.join("src"), package.join("examples")];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension() == Some(OsStr::new("rs")) {
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                let depth = path.strip_prefix(package).map_or(0, |path| path.components().count());
                let up = format!("include_str!(\"{}", "../".repeat(depth));
                if text.contains(&up) || text.contains(&up.replace("str", "bytes")) {
                    found.push(path);
                }
            }
        }
    }
    found
}
