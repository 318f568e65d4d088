use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// A new data set folder DATA_ROOT/NAME that is written beside its place and renamed at the end, so that an incomplete data set is
/// never seen.
pub(crate) struct NewDataset<'a> {
    to: &'a Path,
    /// NAME.
    pub(crate) name: &'a str,
    /// DATA_ROOT.
    pub(crate) data_root: PathBuf,
    partial: tempfile::TempDir,
}

impl<'a> NewDataset<'a> {
    /// # Errors
    /// When `to` exists, or is no DATA_ROOT/NAME.
    pub(crate) fn create(to: &'a Path) -> Result<Self> {
        ensure!(!to.exists(), "{}: it exists already", to.display());
        let (Some(name), Some(parent)) = (to.file_name().and_then(|name| name.to_str()), to.parent()) else {
            bail!("--to {}: expected a folder DATA_ROOT/NAME", to.display());
        };
        let data_root = if parent.as_os_str().is_empty() { Path::new(".") } else { parent }.to_path_buf();
        let shown = || data_root.display().to_string();
        std::fs::create_dir_all(&data_root).with_context(shown)?;
        let partial = tempfile::Builder::new().prefix(&format!(".{name}.")).tempdir_in(&data_root);
        let partial = partial.with_context(shown)?;
        Ok(Self { to, name, data_root, partial })
    }

    /// The folder to write into.
    pub(crate) fn path(&self) -> &Path {
        self.partial.path()
    }

    /// Moves the folder to its place.
    pub(crate) fn finish(self) -> Result<()> {
        std::fs::rename(self.partial.keep(), self.to).with_context(|| self.to.display().to_string())
    }
}
