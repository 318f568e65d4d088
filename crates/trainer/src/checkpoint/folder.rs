//! A run's checkpoints: the best model, the last model, and the last few training states.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cli_kit::errln;

const PREFIX: &str = "step-";
const SUFFIX: &str = ".state.safetensors";
/// Suffix that is added to the name of a file that is set aside.
const SUPERSEDED: &str = ".superseded";

/// The folder `checkpoints` of a run.
#[derive(Debug, Clone)]
pub(crate) struct Checkpoints(PathBuf);

impl Checkpoints {
    pub(crate) fn of(run: &Path) -> Self {
        Self(run.join("checkpoints"))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The model of the best evaluation.
    pub(crate) fn best(&self) -> PathBuf {
        self.0.join("best.safetensors")
    }

    /// The model at the end of training.
    pub(crate) fn last(&self) -> PathBuf {
        self.0.join("last.safetensors")
    }

    /// The training state after a step.
    pub(crate) fn state(&self, step: u64) -> PathBuf {
        self.0.join(format!("{PREFIX}{step:08}{SUFFIX}"))
    }

    /// All training states with their steps, the newest first.
    fn numbered(&self) -> Result<Vec<(u64, PathBuf)>> {
        if !self.0.is_dir() {
            return Ok(Vec::new());
        }
        let entries = std::fs::read_dir(&self.0).with_context(|| self.0.display().to_string())?;
        let paths = entries.flatten().map(|entry| entry.path()).filter(|path| !path.is_dir());
        let mut found: Vec<(u64, PathBuf)> = paths.filter_map(|path| Some((step_of(&path)?, path))).collect();
        found.sort_by_key(|(step, _)| std::cmp::Reverse(*step));
        Ok(found)
    }

    /// All training states, the newest first.
    pub(crate) fn states(&self) -> Result<Vec<PathBuf>> {
        Ok(self.numbered()?.into_iter().map(|(_, path)| path).collect())
    }

    /// Whether a file is in this folder, however its path is written. True for a symlink in this folder, and for a symlink
    /// elsewhere whose target is in this folder.
    pub(crate) fn hold(&self, file: &Path) -> bool {
        let resolved = file.canonicalize().unwrap_or_default();
        [file, &resolved].into_iter().filter_map(Path::parent).any(|folder| {
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            is_same(folder, &self.0)
        })
    }

    /// Renames training states of later steps, so that a run resumed from an earlier one writes the newest.
    pub(crate) fn set_aside_after(&self, step: u64) -> Result<()> {
        self.numbered()?.iter().filter(|(later, _)| *later > step).try_for_each(|(_, path)| set_aside(path))
    }

    /// Removes all but the `n` newest training states; the newest one always stays.
    pub(crate) fn keep(&self, n: usize) -> Result<()> {
        for path in self.states()?.into_iter().skip(n.max(1)) {
            std::fs::remove_file(&path).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    /// The result of `read` for the newest training state that it can read; `None` if there are no training states.
    ///
    /// - passed_over: called with the error of each training state that cannot be read
    ///
    /// # Errors
    /// When there are training states and none can be read.
    pub(crate) fn newest<T>(
        &self,
        mut read: impl FnMut(&Path) -> Result<T>,
        passed_over: impl Fn(anyhow::Error),
    ) -> Result<Option<T>> {
        let states = self.states()?;
        let Some(newest) = states.first() else { return Ok(None) };
        for path in &states {
            match read(path) {
                Ok(value) => return Ok(Some(value)),
                Err(error) => passed_over(error),
            }
        }
        bail!("{}: neither it nor any older checkpoint can be read", newest.display())
    }
}

/// The step in a training state's file name; `None` for other names.
pub(crate) fn step_of(state: &Path) -> Option<u64> {
    state.file_name()?.to_str()?.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok()
}

/// Renames a file of a later step by adding `.superseded`, and prints a warning.
pub(crate) fn set_aside(path: &Path) -> Result<()> {
    // Files that were set aside before are kept, too.
    let named = |turn: usize| {
        let mut name = path.to_path_buf().into_os_string();
        name.push(SUPERSEDED);
        if turn > 1 {
            name.push(format!("-{turn}"));
        }
        PathBuf::from(name)
    };
    let aside = (1..).map(named).find(|name| !name.exists() && !name.is_symlink()).unwrap_or_default();
    errln!("warning: {} is of a later step and is set aside", path.display());
    std::fs::rename(path, &aside).with_context(|| path.display().to_string())
}

/// Whether two paths lead to the same file or folder.
pub(crate) fn is_same(a: &Path, b: &Path) -> bool {
    let identity = |path: &Path| std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    identity(a).is_some_and(|found| identity(b) == Some(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_that_can_be_read_is_used_and_old_ones_go() {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::of(run.path());
        assert_eq!(checkpoints.newest(|_| Ok(()), drop).unwrap(), None);
        // A folder with the name of a training state is ignored.
        std::fs::create_dir_all(checkpoints.state(11)).unwrap();
        for step in [9, 10, 100_000_000] {
            std::fs::write(checkpoints.state(step), step.to_string()).unwrap();
        }
        std::fs::write(checkpoints.best(), "").unwrap();
        let read = |path: &Path| {
            let text = std::fs::read_to_string(path)?;
            anyhow::ensure!(text != "100000000", "{}: damaged", path.display());
            Ok(text)
        };
        let passed_over = std::cell::RefCell::new(Vec::new());
        let newest = checkpoints.newest(read, |error| passed_over.borrow_mut().push(error.to_string()));
        assert_eq!(newest.unwrap().unwrap(), "10");
        assert!(matches!(passed_over.into_inner().as_slice(), [only] if only.contains("step-100000000")));
        assert!(checkpoints.newest(|_| -> Result<()> { bail!("damaged") }, drop).is_err());
        checkpoints.set_aside_after(10).unwrap();
        assert_eq!(checkpoints.states().unwrap(), [checkpoints.state(10), checkpoints.state(9)]);
        assert!(checkpoints.path().join("step-100000000.state.safetensors.superseded").is_file());
        std::fs::write(checkpoints.state(100_000_000), "").unwrap();
        checkpoints.keep(2).unwrap();
        assert_eq!(checkpoints.states().unwrap(), [checkpoints.state(100_000_000), checkpoints.state(10)]);
        assert!(checkpoints.best().is_file());
    }

    #[test]
    fn a_file_is_found_to_be_here_whatever_way_it_is_named() {
        use std::os::unix::fs::symlink;
        let root = tempfile::tempdir().unwrap();
        let [run, other] = ["run", "other"].map(|name| root.path().join(name));
        for run in [&run, &other] {
            std::fs::create_dir_all(run.join("checkpoints")).unwrap();
        }
        let own = Checkpoints::of(&run);
        std::fs::write(own.state(1), "").unwrap();
        std::fs::write(Checkpoints::of(&other).state(1), "").unwrap();
        symlink(&run, root.path().join("link")).unwrap();
        symlink(own.state(1), root.path().join("state")).unwrap();
        symlink(Checkpoints::of(&other).state(1), own.state(2)).unwrap();
        let named = |text: &str| PathBuf::from(format!("{}/{text}", root.path().display()));
        let state = "checkpoints/step-00000001.state.safetensors";
        for path in [
            format!("run//{state}"),
            format!("other/../run/{state}"),
            format!("link/{state}"),
            "state".into(),
        ] {
            assert!(own.hold(&named(&path)), "{path}");
        }
        assert!(own.hold(&own.state(2)) && !own.hold(&Checkpoints::of(&other).state(1)));
        assert!(!Checkpoints::of(&root.path().join("nothing")).hold(&own.state(1)));
    }
}
