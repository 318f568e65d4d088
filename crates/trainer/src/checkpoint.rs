//! Checkpoints: the model in one safetensors file, the training state beside it in another.
//!
//! A file's bytes depend on config, seed and step only: tensors are sorted, and the metadata is a single entry.
//! Files are written under a temporary name, synced and renamed, so a name always stands for a whole file. The
//! training state holds the model too, so resuming reads one file and never a mixture of two.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use talent::Talent;
use talent::weights::read_tensor;
use tch::{Device, Kind, Tensor};
use torch_ext::{Adam, generator};
use weight_files::WeightFile;

use crate::config::Config;
use crate::precision::LossScaler;

const FORMAT: u32 = 1;
/// Key of the one metadata entry; more than one would be written in random order.
const META_KEY: &str = "talent";

/// How far a run is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Optimiser steps done.
    pub(crate) step: u64,
    /// Epochs finished.
    pub(crate) epoch: u64,
    /// Batches done in the present epoch.
    pub(crate) batch: u64,
    /// Best validation mIoU so far, in percent.
    pub(crate) best_miou: Option<f64>,
    /// Lines of `records.jsonl` that belong to this state.
    pub(crate) n_records: usize,
    /// The loss scaler.
    pub(crate) scaler: LossScaler,
}

/// What a checkpoint says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Meta {
    pub(crate) format: u32,
    pub(crate) config: Config,
    pub(crate) position: Position,
}

/// Writes the model: all parameters and buffers under their official names.
pub(crate) fn save_model(path: &Path, model: &Talent, cfg: &Config, position: &Position) -> Result<()> {
    let tensors = model.store().entries().into_iter().map(|(name, entry)| (name, entry.tensor)).collect();
    write(path, tensors, cfg, position)
}

/// Writes everything a run needs to go on: model, Adam's moments, random states, position.
pub(crate) fn save_state(
    path: &Path,
    model: &Talent,
    adam: &Adam,
    cfg: &Config,
    position: &Position,
) -> Result<()> {
    let entries = model.store().entries().into_iter();
    let mut tensors: Vec<(String, Tensor)> =
        entries.map(|(name, entry)| (format!("model/{name}"), entry.tensor)).collect();
    tensors.extend(adam.state());
    let device = model.store().device();
    tensors.push(("rng/cpu".into(), generator::state(Device::Cpu)?));
    if device.is_cuda() {
        tensors.push(("rng/cuda".into(), generator::state(device)?));
    }
    write(path, tensors, cfg, position)
}

/// Where the training state of a model file is: `last.safetensors` has `last.state.safetensors` beside it.
pub(crate) fn state_path(model: &Path) -> PathBuf {
    let stem = model.file_stem().unwrap_or_default().to_string_lossy();
    match stem.ends_with(".state") {
        true => model.to_path_buf(),
        false => model.with_file_name(format!("{stem}.state.safetensors")),
    }
}

/// What a checkpoint says of itself; `None` if another program wrote it.
pub(crate) fn read_meta(path: &Path) -> Result<Option<Meta>> {
    meta_of(&WeightFile::open(path)?)
}

fn meta_of(file: &WeightFile) -> Result<Option<Meta>> {
    let path = file.path();
    let Some(info) = file.metadata(META_KEY) else { return Ok(None) };
    let meta: Meta = serde_json::from_str(info).with_context(|| format!("{}: metadata", path.display()))?;
    ensure!(meta.format == FORMAT, "{}: checkpoint format {} is not {FORMAT}", path.display(), meta.format);
    Ok(Some(meta))
}

/// Loads a training state into model, optimiser and random generators.
pub(crate) fn load_state(path: &Path, model: &Talent, adam: &mut Adam) -> Result<Meta> {
    let mut file = WeightFile::open(path)?;
    let meta = meta_of(&file)?
        .ok_or_else(|| anyhow!("{}: this training state was not written by talent", path.display()))?;
    let mut restore = || -> Result<()> {
        for (name, _) in model.store().entries() {
            model.store().assign(&name, &read_tensor(&mut file, &format!("model/{name}"))?)?;
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
    restore().with_context(|| path.display().to_string())?;
    Ok(meta)
}

fn write(path: &Path, tensors: Vec<(String, Tensor)>, cfg: &Config, position: &Position) -> Result<()> {
    let meta = Meta { format: FORMAT, config: cfg.clone(), position: position.clone() };
    write_tensors(path, tensors, (META_KEY, &serde_json::to_string(&meta)?))
}

/// Writes tensors and one metadata entry as safetensors.
pub(crate) fn write_tensors(path: &Path, tensors: Vec<(String, Tensor)>, info: (&str, &str)) -> Result<()> {
    let mut buffers = Vec::with_capacity(tensors.len());
    for (name, tensor) in &tensors {
        let tensor = tensor.detach().to_device(Device::Cpu).contiguous();
        let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
        tensor.f_copy_data_u8(&mut bytes, tensor.numel()).with_context(|| format!("tensor `{name}`"))?;
        let shape: Vec<usize> = tensor.size().iter().map(|&n| n as usize).collect();
        buffers.push((name, dtype(tensor.kind())?, shape, bytes));
    }
    let mut views = Vec::with_capacity(buffers.len());
    for (name, dtype, shape, bytes) in &buffers {
        views.push((name.as_str(), TensorView::new(*dtype, shape.clone(), bytes)?));
    }
    let info = HashMap::from([(info.0.to_owned(), info.1.to_owned())]);
    let bytes = safetensors::serialize(views, Some(info))?;
    write_atomically(path, &bytes)
}

/// Writes a file so that its name never stands for half of it.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension(format!("tmp-{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        // The rename itself is durable only once the folder is.
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    };
    write().map_err(|error| {
        let _ = std::fs::remove_file(&temporary);
        anyhow!("{}: {error}", path.display())
    })
}

fn dtype(kind: Kind) -> Result<Dtype> {
    Ok(match kind {
        Kind::Half => Dtype::F16,
        Kind::Float => Dtype::F32,
        Kind::Double => Dtype::F64,
        Kind::Int64 => Dtype::I64,
        Kind::Uint8 => Dtype::U8,
        other => bail!("tensors of type {other:?} are not stored"),
    })
}
