//! The files themselves.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use safetensors::tensor::{Dtype, TensorView};
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};
use weight_files::WeightFile;

use super::Meta;
use crate::files::write_atomically;

/// Of the metadata; a reader refuses others.
pub(super) const FORMAT: u32 = 2;
/// Key of the one metadata entry; more than one would be written in random order.
const META_KEY: &str = "talent";

/// What a checkpoint says of itself; `None` if another program wrote it. Nothing is verified.
pub(crate) fn read_meta(path: &Path) -> Result<Option<Meta>> {
    meta_of(&WeightFile::open(path)?)
}

fn meta_of(file: &WeightFile) -> Result<Option<Meta>> {
    let path = file.path().display();
    let Some(info) = file.metadata(META_KEY) else { return Ok(None) };
    let document: serde_json::Value =
        serde_json::from_str(info).with_context(|| format!("{path}: metadata"))?;
    let format = document["format"].as_u64();
    ensure!(
        format == Some(u64::from(FORMAT)),
        "{path}: this is a checkpoint of format {}, and this program reads format {FORMAT}",
        format.map_or("unknown".to_owned(), |format| format.to_string())
    );
    Ok(Some(serde_json::from_value(document).with_context(|| format!("{path}: metadata"))?))
}

/// As [`read_meta`], after reading all of the file and comparing its content with the checksum in it.
pub(super) fn verified_meta(file: &mut WeightFile) -> Result<Option<Meta>> {
    let Some(meta) = meta_of(file)? else { return Ok(None) };
    let mut names: Vec<String> = file.tensors().map(|(name, _)| name.to_owned()).collect();
    names.sort_unstable();
    let document = file.metadata(META_KEY).unwrap_or_default();
    let mut hasher = Sha256::new_with_prefix(document.replacen(&meta.sha256, "", 1));
    for name in names {
        let Some(info) = file.info(&name).cloned() else { continue };
        let bytes = file.read(&name)?;
        add(&mut hasher, &name, &info.shape, &bytes);
    }
    ensure!(
        meta.sha256 == hex(hasher),
        "{}: the file is damaged: its content does not have the SHA-256 that it names",
        file.path().display()
    );
    Ok(Some(meta))
}

/// Writes a checkpoint with its checksum.
pub(super) fn write_checkpoint(path: &Path, tensors: Vec<(String, Tensor)>, mut meta: Meta) -> Result<()> {
    let mut buffers = buffers(tensors)?;
    buffers.sort_by(|a, b| a.name.cmp(&b.name));
    // The document as it is before it names the checksum.
    meta.sha256.clear();
    let mut hasher = Sha256::new_with_prefix(serde_json::to_vec(&meta)?);
    for Buffer { name, shape, bytes, .. } in &buffers {
        add(&mut hasher, name, shape, bytes);
    }
    meta.sha256 = hex(hasher);
    write_buffers(path, &buffers, (META_KEY, &serde_json::to_string(&meta)?))
}

/// Writes tensors and one metadata entry as safetensors.
pub(crate) fn write_tensors(path: &Path, tensors: Vec<(String, Tensor)>, info: (&str, &str)) -> Result<()> {
    write_buffers(path, &buffers(tensors)?, info)
}

fn add(hasher: &mut Sha256, name: &str, shape: &[usize], bytes: &[u8]) {
    // Lengths included, so that nothing can move from one tensor to the next unnoticed.
    hasher.update(format!("\n{name}\n{shape:?}\n{}\n", bytes.len()));
    hasher.update(bytes);
}

pub(super) fn hex(hasher: Sha256) -> String {
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

struct Buffer {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

fn buffers(tensors: Vec<(String, Tensor)>) -> Result<Vec<Buffer>> {
    let buffer = |(name, tensor): (String, Tensor)| -> Result<Buffer> {
        let tensor = tensor.detach().to_device(Device::Cpu).contiguous();
        let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
        tensor.f_copy_data_u8(&mut bytes, tensor.numel()).with_context(|| format!("tensor `{name}`"))?;
        let shape: Vec<usize> = tensor.size().iter().map(|&n| n as usize).collect();
        Ok(Buffer { dtype: dtype(tensor.kind())?, name, shape, bytes })
    };
    tensors.into_iter().map(buffer).collect()
}

fn write_buffers(path: &Path, buffers: &[Buffer], info: (&str, &str)) -> Result<()> {
    let mut views = Vec::with_capacity(buffers.len());
    for Buffer { name, dtype, shape, bytes } in buffers {
        views.push((name.as_str(), TensorView::new(*dtype, shape.clone(), bytes)?));
    }
    let info = HashMap::from([(info.0.to_owned(), info.1.to_owned())]);
    write_atomically(path, &safetensors::serialize(views, Some(info))?)
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
