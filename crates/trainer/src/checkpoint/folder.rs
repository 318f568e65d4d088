//! A run's checkpoints: the best model, the last model, and the last few training states.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

const PREFIX: &str = "step-";
const SUFFIX: &str = ".state.safetensors";
/// What the name of a state gets that another has taken the place of.
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

    /// All training states, the newest first.
    pub(crate) fn states(&self) -> Result<Vec<PathBuf>> {
        if !self.0.is_dir() {
            return Ok(Vec::new());
        }
        let entries = std::fs::read_dir(&self.0).with_context(|| self.0.display().to_string())?;
        let step = |name: &str| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse::<u64>().ok();
        let mut found: Vec<(u64, PathBuf)> = entries
            .flatten()
            .filter_map(|entry| Some((step(entry.file_name().to_str()?)?, entry.path())))
            .collect();
        found.sort_by_key(|(step, _)| std::cmp::Reverse(*step));
        Ok(found.into_iter().map(|(_, path)| path).collect())
    }

    /// Renames training states of later steps, so that a run that goes on from an earlier one writes the newest.
    pub(crate) fn set_aside_after(&self, step: u64) -> Result<()> {
        let present = self.state(step);
        for path in self.states()?.into_iter().take_while(|path| *path != present) {
            let mut aside = path.clone().into_os_string();
            aside.push(SUPERSEDED);
            eprintln!("warning: {} is of a later step and is set aside", path.display());
            std::fs::rename(&path, &aside).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    /// Removes all but the newest training states.
    pub(crate) fn keep(&self, n: usize) -> Result<()> {
        for path in self.states()?.into_iter().skip(n.max(1)) {
            std::fs::remove_file(&path).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    /// The result of `read` on the newest training state on which it succeeds, with a warning for every newer one; `None`
    /// where there is none at all.
    ///
    /// # Errors
    /// When there are training states and none can be read.
    pub(crate) fn newest<T>(&self, mut read: impl FnMut(&Path) -> Result<T>) -> Result<Option<T>> {
        let states = self.states()?;
        let Some(newest) = states.first() else { return Ok(None) };
        for path in &states {
            match read(path) {
                Ok(value) => return Ok(Some(value)),
                Err(error) => eprintln!("warning: {error:#}; trying the checkpoint before it"),
            }
        }
        bail!("{}: neither it nor any older checkpoint can be read", newest.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_that_can_be_read_is_used_and_old_ones_go() {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::of(run.path());
        assert_eq!(checkpoints.newest(|_| Ok(())).unwrap(), None);
        std::fs::create_dir(checkpoints.path()).unwrap();
        for step in [9, 10, 100_000_000] {
            std::fs::write(checkpoints.state(step), step.to_string()).unwrap();
        }
        std::fs::write(checkpoints.best(), "").unwrap();
        let read = |path: &Path| {
            let text = std::fs::read_to_string(path)?;
            anyhow::ensure!(text != "100000000", "{}: damaged", path.display());
            Ok(text)
        };
        assert_eq!(checkpoints.newest(read).unwrap().unwrap(), "10");
        assert!(checkpoints.newest(|_| -> Result<()> { bail!("damaged") }).is_err());
        checkpoints.set_aside_after(10).unwrap();
        assert_eq!(checkpoints.states().unwrap(), [checkpoints.state(10), checkpoints.state(9)]);
        assert!(checkpoints.path().join("step-100000000.state.safetensors.superseded").is_file());
        std::fs::write(checkpoints.state(100_000_000), "").unwrap();
        checkpoints.keep(2).unwrap();
        assert_eq!(checkpoints.states().unwrap(), [checkpoints.state(100_000_000), checkpoints.state(10)]);
        assert!(checkpoints.best().is_file());
    }
}
