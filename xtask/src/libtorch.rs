//! Finds libtorch folders and checks their version and headers.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::project::output_of;

/// The libtorch version that tch 0.24 needs.
pub(crate) const VERSION: &str = "2.11.0";

/// A libtorch folder that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Libtorch {
    pub(crate) path: PathBuf,
    /// Version with its local part, for example `2.11.0+cu130`.
    pub(crate) version: String,
    /// Whether it contains the CUDA libraries.
    pub(crate) has_cuda: bool,
}

impl Libtorch {
    /// Checks a folder's headers, libraries and version.
    pub(crate) fn check(path: &Path) -> Result<Self> {
        let shown = path.display();
        ensure!(path.is_dir(), "{shown}: there is no such folder");
        for needed in [
            "include/ATen/ATen.h",
            "include/torch/csrc/api/include/torch/torch.h",
            "lib/libtorch_cpu.so",
            "lib/libtorch.so",
        ] {
            ensure!(path.join(needed).is_file(), "{shown} is no libtorch with headers: {needed} is missing");
        }
        let version = read_version(path).with_context(|| format!("{shown}: cannot tell its version"))?;
        let plain = version.split('+').next().unwrap_or_default();
        ensure!(plain == VERSION, "{shown} holds torch {version}, but this project needs {VERSION}");
        Ok(Self { path: path.to_path_buf(), has_cuda: path.join("lib/libtorch_cuda.so").is_file(), version })
    }
}

/// Version from the Python package's `version.py`, or from `build-version` of a libtorch archive.
fn read_version(path: &Path) -> Result<String> {
    if let Ok(text) = std::fs::read_to_string(path.join("version.py")) {
        let line = text.lines().find_map(|line| line.strip_prefix("__version__ = "));
        let line = line.context("version.py has no __version__")?;
        return Ok(line.trim_matches(['\'', '"']).to_owned());
    }
    if let Ok(text) = std::fs::read_to_string(path.join("build-version")) {
        return Ok(text.trim().to_owned());
    }
    let header = std::fs::read_to_string(path.join("include/torch/csrc/api/include/torch/version.h"))?;
    let number = |name: &str| {
        let line = header.lines().find_map(|line| line.strip_prefix(&format!("#define {name} ")));
        line.and_then(|value| value.trim().parse::<u32>().ok())
    };
    match ["TORCH_VERSION_MAJOR", "TORCH_VERSION_MINOR", "TORCH_VERSION_PATCH"].map(number) {
        [Some(major), Some(minor), Some(patch)] => Ok(format!("{major}.{minor}.{patch}")),
        _ => bail!("no version.py, build-version or version.h"),
    }
}

/// LIBTORCH as the user set it. Cargo's `[env]` sets it to the project's link inside `cargo xtask`; that value is ignored.
pub(crate) fn from_environment(link: &Path) -> Option<PathBuf> {
    let value = PathBuf::from(std::env::var_os("LIBTORCH").filter(|value| !value.is_empty())?);
    let is_link = value == link || (value.parent() == link.parent() && value.file_name() == link.file_name());
    (!is_link).then_some(value)
}

/// The torch folder of a Python environment, if it has one.
pub(crate) fn of_python(python: &Path) -> Option<PathBuf> {
    // torch is located without importing it: an import takes seconds and may fail for other reasons.
    let script = "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')";
    output_of(python, &["-c", script]).filter(|path| !path.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fake(version: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        for name in [
            "include/ATen/ATen.h",
            "include/torch/csrc/api/include/torch/torch.h",
            "lib/libtorch_cpu.so",
            "lib/libtorch.so",
        ] {
            write(name, "");
        }
        write(
            "version.py",
            &format!("from typing import Optional\n__version__ = '{version}'\ndebug = False\n"),
        );
        folder
    }

    #[test]
    fn a_fitting_folder_is_accepted() {
        let folder = fake("2.11.0+cpu");
        let found = Libtorch::check(folder.path()).unwrap();
        assert_eq!((found.version.as_str(), found.has_cuda), ("2.11.0+cpu", false));
    }

    #[test]
    fn another_version_or_a_missing_header_is_named() {
        let error = Libtorch::check(fake("2.10.1").path()).unwrap_err().to_string();
        assert!(error.contains("holds torch 2.10.1") && error.contains("needs 2.11.0"), "{error}");
        let folder = fake("2.11.0");
        std::fs::remove_file(folder.path().join("include/ATen/ATen.h")).unwrap();
        assert!(Libtorch::check(folder.path()).unwrap_err().to_string().contains("include/ATen/ATen.h"));
    }
}
