use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Result, read_document, write_document};

/// `ablation.json`: what an ablation compares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ablation {
    /// Its name.
    pub name: String,
    /// The row that the others are compared with.
    pub baseline: String,
    /// Its rows, in order.
    pub rows: Vec<Row>,
    /// Seeds of every row.
    #[serde(default)]
    pub seeds: Vec<u64>,
    /// Preset of every run.
    #[serde(default)]
    pub preset: Option<String>,
    /// Config of every run, in place of a preset.
    #[serde(default)]
    pub config: Option<String>,
    /// Data set of every run, in place of the config's.
    #[serde(default)]
    pub dataset: Option<String>,
    /// Overrides of every run.
    #[serde(default)]
    pub set: Vec<String>,
}

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Its name in tables.
    pub name: String,
    /// Its overrides.
    #[serde(default)]
    pub set: Vec<String>,
}

impl Ablation {
    fn file(folder: &Path) -> PathBuf {
        folder.join("ablation.json")
    }

    /// The ablation that a run belongs to: the file lies beside the run's or in one of the three folders above. None where there
    /// is none that can be read.
    pub fn of(run: &Path) -> Option<Self> {
        run.ancestors().take(4).find_map(|folder| read_document(&Self::file(folder)).ok())
    }

    /// What a folder of runs holds; none where there is no file, or one that cannot be read.
    pub fn read(folder: &Path) -> Option<Self> {
        read_document(&Self::file(folder)).ok()
    }

    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        write_document(&Self::file(folder), self)
    }
}

/// `cell.json`: which row and seed of an ablation a run is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// The ablation's name.
    #[serde(default)]
    pub ablation: String,
    /// The row.
    pub row: String,
    /// The seed.
    #[serde(default)]
    pub seed: u64,
    /// All overrides.
    #[serde(default)]
    pub set: Vec<String>,
    /// Steps after which it was to end; none for its epochs.
    #[serde(default)]
    pub max_steps: Option<u64>,
}

impl Cell {
    fn file(run: &Path) -> PathBuf {
        run.join("cell.json")
    }

    /// None for a run that is not part of an ablation.
    ///
    /// # Errors
    /// When the file is there and cannot be read, or is none of ours.
    pub fn read(run: &Path) -> Result<Option<Self>> {
        let file = Self::file(run);
        if file.exists() { read_document(&file).map(Some) } else { Ok(None) }
    }

    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, run: &Path) -> Result<()> {
        write_document(&Self::file(run), self)
    }
}
