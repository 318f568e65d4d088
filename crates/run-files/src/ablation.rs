use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Result, read_document, write_document};

/// `ablation.json`: the rows and seeds that an ablation compares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ablation {
    /// Name of the ablation.
    pub name: String,
    /// The row that the others are compared with.
    pub baseline: String,
    /// Rows of the ablation, in order.
    pub rows: Vec<Row>,
    /// Seeds of every row.
    #[serde(default)]
    pub seeds: Vec<u64>,
    /// Preset of every run.
    #[serde(default)]
    pub preset: Option<String>,
    /// Config of every run, instead of a preset.
    #[serde(default)]
    pub config: Option<String>,
    /// Data set of every run, instead of the config's.
    #[serde(default)]
    pub dataset: Option<String>,
    /// Config overrides of every run.
    #[serde(default)]
    pub set: Vec<String>,
}

/// One row of an ablation: a setting that is compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Name in tables.
    pub name: String,
    /// Config overrides of this row.
    #[serde(default)]
    pub set: Vec<String>,
}

impl Ablation {
    fn file(folder: &Path) -> PathBuf {
        folder.join("ablation.json")
    }

    /// The ablation that a run belongs to. Its file is in the run's folder or in one of the three folders above. `None` if
    /// there is no file.
    ///
    /// # Errors
    /// When the file exists and cannot be read, or is malformed.
    pub fn of(run: &Path) -> Result<Option<Self>> {
        run.ancestors().take(4).find_map(|folder| Self::read(folder).transpose()).transpose()
    }

    /// Reads the ablation of a folder of runs; `None` if there is no file.
    ///
    /// # Errors
    /// When the file exists and cannot be read, or is malformed.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let file = Self::file(folder);
        if file.exists() { read_document(&file).map(Some) } else { Ok(None) }
    }

    /// Writes `ablation.json` into a folder of runs.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        write_document(&Self::file(folder), self)
    }
}

/// `cell.json`: the row and seed of an ablation that a run trains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// Name of the ablation.
    #[serde(default)]
    pub ablation: String,
    /// Name of the row.
    pub row: String,
    /// Seed of the run.
    #[serde(default)]
    pub seed: u64,
    /// All config overrides of the run.
    #[serde(default)]
    pub set: Vec<String>,
    /// Number of steps after which the run was to end; `None` if after its epochs.
    #[serde(default)]
    pub max_steps: Option<u64>,
}

impl Cell {
    fn file(run: &Path) -> PathBuf {
        run.join("cell.json")
    }

    /// Reads the cell of a run; `None` for a run that is not part of an ablation.
    ///
    /// # Errors
    /// When the file exists and cannot be read, or is malformed.
    pub fn read(run: &Path) -> Result<Option<Self>> {
        let file = Self::file(run);
        if file.exists() { read_document(&file).map(Some) } else { Ok(None) }
    }

    /// Writes `cell.json` into a run's folder.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, run: &Path) -> Result<()> {
        write_document(&Self::file(run), self)
    }
}
