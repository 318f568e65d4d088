//! Checkpoints: safetensors files with one metadata entry, a JSON document that describes the checkpoint.
//!
//! - A *model* holds parameters and buffers under their official names.
//! - A *training state* holds the model (`model/NAME`), Adam's moments, RNG states and position: everything needed to
//!   resume a run. Resuming reads this one file only, so it never mixes two states.
//!
//! Frozen encoders that came from a file are not stored again: the checkpoint contains the path and SHA-256 of that file.
//! Every checkpoint contains a SHA-256 of its own content. Its bytes depend on config, seed and step only.

mod bounds;
mod encoders;
mod file;
mod folder;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use cli_kit::errln;
use serde::{Deserialize, Serialize};
use talent::Talent;
use talent::weights::{Strictness, load_network, read_tensor};
use tch::{Device, Tensor};
use torch_ext::{Adam, generator};
use weight_files::WeightFile;

pub(crate) use encoders::{EncoderFile, EncoderRoot, Encoders, sha256 as file_sha256};
pub(crate) use file::{
    FORMAT, MODEL_FILE, checkpoint_argument, hex, read_meta, verified_meta, write_checkpoint, write_tensors,
};
pub(crate) use folder::{Checkpoints, is_same, set_aside, step_of};

use crate::config::Config;
use crate::precision::LossScaler;

/// Progress of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Optimiser steps done.
    pub(crate) step: u64,
    /// Epochs finished.
    pub(crate) epoch: u64,
    /// Batches done in the current epoch; all of them if its evaluation is still due.
    pub(crate) batch: u64,
    /// Best validation mIoU so far, in percent.
    pub(crate) best_miou: Option<f64>,
    /// Lines of `records.jsonl` that belong to this state.
    pub(crate) n_records: usize,
    /// SHA-256 of these lines without their timings; empty in training states that were written before this field existed.
    #[serde(default)]
    pub(crate) records_sha256: String,
    /// Evaluations since the best one.
    #[serde(default)]
    pub(crate) stale: u64,
    /// State of the loss scaler.
    pub(crate) scaler: LossScaler,
    /// Whether the evaluation of the validation splits at this step is still due.
    #[serde(default)]
    pub(crate) evaluation_due: bool,
    /// Names of the samples that have been skipped so far because they could not be read.
    #[serde(default)]
    pub(crate) bad_samples: BTreeSet<String>,
}

impl Position {
    /// The position before the first step.
    pub(crate) fn start(scaler: LossScaler) -> Self {
        Self {
            step: 0,
            epoch: 0,
            batch: 0,
            best_miou: None,
            n_records: 0,
            records_sha256: String::new(),
            stale: 0,
            scaler,
            evaluation_due: false,
            bad_samples: BTreeSet::new(),
        }
    }
}

/// Metadata of a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Meta {
    pub(crate) format: u32,
    /// SHA-256 of everything else in the file.
    pub(crate) sha256: String,
    pub(crate) config: Config,
    pub(crate) position: Position,
    /// Frozen encoders that are stored in other files.
    pub(crate) encoders: Encoders,
}

/// Writes the checkpoints of a run.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    pub(crate) model: &'a Talent,
    pub(crate) config: &'a Config,
    pub(crate) encoders: &'a Encoders,
}

impl Writer<'_> {
    /// Parameters and buffers that no other file holds.
    fn own_tensors(&self) -> impl Iterator<Item = (String, Tensor)> {
        let entries = self.model.store().entries().into_iter();
        let own = entries.filter(|(_, entry)| !self.encoders.hold(entry));
        own.map(|(name, entry)| (name, entry.tensor))
    }

    /// Writes the model.
    pub(crate) fn save_model(&self, path: &Path, position: &Position) -> Result<()> {
        self.write(path, self.own_tensors().collect(), position)
    }

    /// Writes a training state: everything needed to resume the run.
    ///
    /// - more: other tensors that it needs
    pub(crate) fn save_state(
        &self,
        path: &Path,
        adam: &Adam,
        more: Vec<(String, Tensor)>,
        position: &Position,
    ) -> Result<()> {
        let mut tensors: Vec<(String, Tensor)> =
            self.own_tensors().map(|(name, tensor)| (format!("model/{name}"), tensor)).collect();
        tensors.extend(adam.state());
        tensors.extend(more);
        let device = self.model.store().device();
        tensors.push(("rng/cpu".into(), generator::state(Device::Cpu)?));
        if device.is_cuda() {
            tensors.push(("rng/cuda".into(), generator::state(device)?));
        }
        self.write(path, tensors, position)
    }

    fn write(&self, path: &Path, tensors: Vec<(String, Tensor)>, position: &Position) -> Result<()> {
        let meta = Meta {
            format: FORMAT,
            sha256: String::new(),
            config: self.config.clone(),
            position: position.clone(),
            encoders: self.encoders.clone(),
        };
        write_checkpoint(path, tensors, meta)
    }
}

/// Reads a whole training state, verifies its checksum, and returns its metadata.
///
/// # Errors
/// When the file is damaged, is a model instead of a training state, or was written by another program.
pub(crate) fn verify(path: &Path) -> Result<Meta> {
    let meta = verified_meta(path)?
        .with_context(|| format!("{}: this training state was not written by talent", path.display()))?;
    let is_state = WeightFile::open(path)?.tensors().any(|(name, _)| name.starts_with("rng/"));
    ensure!(
        is_state,
        "{}: this is a model, and no training state to go on from; states are called step-NUMBER.state.safetensors",
        path.display()
    );
    Ok(meta)
}

/// Loads a training state into the optimiser, the RNGs, and the part of the model that the state holds. Encoders in other
/// files are not read: a resumed run has already loaded them.
///
/// - meta: what [`verify`] returned for this file
///
/// # Errors
/// When the file belongs to another network. Model and optimiser may then be partly overwritten.
pub(crate) fn load_state(path: &Path, meta: &Meta, model: &Talent, adam: &mut Adam) -> Result<()> {
    let mut file = WeightFile::open(path)?;
    let mut restore = || -> Result<()> {
        for (name, entry) in model.store().entries() {
            if !meta.encoders.hold(&entry) {
                model.store().assign(&name, &read_tensor(&mut file, &format!("model/{name}"))?)?;
            }
        }
        let mut state = BTreeMap::new();
        for (name, _) in adam.state() {
            let value = read_tensor(&mut file, &name)?;
            state.insert(name, value);
        }
        adam.load_state(|name| state.get(name).map(Tensor::shallow_clone))?;
        let device = model.store().device();
        generator::set_state(Device::Cpu, &read_tensor(&mut file, "rng/cpu")?)?;
        if device.is_cuda() && file.info("rng/cuda").is_some() {
            generator::set_state(device, &read_tensor(&mut file, "rng/cuda")?)?;
        }
        Ok(())
    };
    restore().with_context(|| path.display().to_string())
}

/// Opens a training state to read some of its tensors by name.
pub(crate) fn state_tensors(path: &Path) -> Result<impl FnMut(&str) -> Result<Tensor>> {
    let mut file = WeightFile::open(path)?;
    Ok(move |name: &str| Ok(read_tensor(&mut file, name)?))
}

/// Loads a whole network from a checkpoint, ours or an official one, and from the encoder files that it refers to.
///
/// - meta: what [`verified_meta`] returned for this file
///
/// # Errors
/// When a file is missing or damaged, is not the one that the checkpoint was made with, or does not fit the network.
pub(crate) fn load_model(
    model: &Talent,
    path: &Path,
    meta: Option<&Meta>,
    strictness: &Strictness,
    root: &EncoderRoot,
) -> Result<()> {
    if let Some(meta) = meta {
        meta.encoders.load(model, root).with_context(|| path.display().to_string())?;
    }
    fill(model, path, meta, strictness)
}

/// Loads the tensors that a checkpoint itself holds into a network; encoders in other files are left unchanged.
///
/// # Errors
/// When the file is damaged, or does not fit the network.
pub(crate) fn load_own(model: &Talent, path: &Path, strictness: &Strictness) -> Result<()> {
    fill(model, path, verified_meta(path)?.as_ref(), strictness)
}

fn fill(model: &Talent, path: &Path, meta: Option<&Meta>, strictness: &Strictness) -> Result<()> {
    let mut strictness = strictness.clone();
    if let Some(meta) = meta {
        let entries = model.store().entries().into_iter();
        let elsewhere = entries.filter(|(_, entry)| meta.encoders.hold(entry));
        strictness.allow_missing.extend(elsewhere.map(|(name, _)| name));
    }
    let report = load_network(model, path, &strictness)
        .context("the checkpoint does not fit this network; is the config another one's?")?;
    if meta.is_none() && (!report.casts.is_empty() || !report.tolerated.is_empty()) {
        errln!("{}: {report}", path.display());
    }
    Ok(())
}
