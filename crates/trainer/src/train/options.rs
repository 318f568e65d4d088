//! Options of a run.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use command_kit::DEFAULT_DATA_ROOT;

use crate::experiment::Machine;

/// When to write checkpoints, in addition to the end of each epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointEvery {
    /// After every N steps.
    Steps(u64),
    /// When this much time has passed since the last checkpoint.
    Time(Duration),
}

impl std::str::FromStr for CheckpointEvery {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fail = || format!("`{text}` is neither a number of steps (500steps) nor of minutes (10m)");
        let split = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
        let n: u64 = text[..split].parse().map_err(|_| fail())?;
        match (n, &text[split..]) {
            (0, _) => Err(fail()),
            (n, "" | "steps" | "step") => Ok(Self::Steps(n)),
            (n, "m") => Ok(Self::Time(Duration::from_secs(n.saturating_mul(60)))),
            _ => Err(fail()),
        }
    }
}

/// What a run starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    /// Start a new run; refuses a folder that already holds one.
    No,
    /// From the run folder's last checkpoint, or as a new run if it has none.
    Auto,
    /// From this run folder or checkpoint file.
    From(PathBuf),
}

/// Flags of a run that an ablation passes to each of its runs.
#[derive(Debug, Clone, clap::Args)]
pub struct SharedFlags {
    /// Folder of the data sets [default: datasets; that of the run, if one goes on]
    #[arg(long)]
    pub data_root: Option<PathBuf>,
    /// End the run normally after this many steps
    #[arg(long)]
    pub max_steps: Option<u64>,
    /// Activation checkpointing of the image encoder: recompute its blocks in the backward pass. Less memory, more time, the
    /// same results
    #[arg(long)]
    pub recompute: bool,
}

impl SharedFlags {
    /// Checks the flags before anything is written.
    pub(crate) fn check(&self) -> Result<()> {
        ensure!(self.max_steps != Some(0), "--max-steps must be positive");
        Ok(())
    }

    /// Folder of the data sets: the one given, or the default.
    pub fn data_root(&self) -> &Path {
        self.data_root.as_deref().unwrap_or(Path::new(DEFAULT_DATA_ROOT))
    }

    /// The flags as command-line arguments.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let Self { data_root, max_steps, recompute } = self;
        let mut all: Vec<OsString> = Vec::new();
        all.extend(data_root.iter().flat_map(|root| ["--data-root".into(), root.into()]));
        all.extend(max_steps.iter().flat_map(|steps| ["--max-steps".into(), steps.to_string().into()]));
        all.extend(recompute.then(|| "--recompute".into()));
        all
    }
}

/// Options of a run. Only `fast_dev_run` and `init` change its result.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Device and threads.
    pub machine: Machine,
    /// Data root, number of steps, activation checkpointing.
    pub shared: SharedFlags,
    /// The run's folder.
    pub run_dir: PathBuf,
    /// Whether the run is one step and the first batch of each evaluation, to see that everything works.
    pub fast_dev_run: bool,
    /// Checkpoint whose weights a new run starts from.
    pub init: Option<PathBuf>,
    /// Whether steps are captured as a CUDA graph and replayed.
    pub cuda_graphs: bool,
    /// Whether several processes all-reduce gradients during the backward pass.
    pub overlap_all_reduce: bool,
    /// Prefixes of official names: tensors with these names may be missing from the encoders' files.
    pub allow_missing: Vec<String>,
    /// When to write checkpoints, in addition to the end of each epoch.
    pub checkpoint_every: Option<CheckpointEvery>,
    /// How many training states are kept.
    pub keep_checkpoints: usize,
    /// Whether checkpoints also hold frozen encoders that came from a file.
    pub embed_encoders: bool,
    /// Whether a run may be resumed with another config.
    pub allow_config_change: bool,
    /// What the run starts from.
    pub resume: Resume,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoint_intervals() {
        assert_eq!("500steps".parse(), Ok(CheckpointEvery::Steps(500)));
        assert_eq!("7".parse(), Ok(CheckpointEvery::Steps(7)));
        assert_eq!("10m".parse(), Ok(CheckpointEvery::Time(Duration::from_secs(600))));
        for text in ["", "0", "m", "5h", "-3"] {
            assert!(text.parse::<CheckpointEvery>().is_err(), "{text}");
        }
    }
}
