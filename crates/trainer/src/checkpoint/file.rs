//! Reads and writes checkpoint files.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::builder::TypedValueParser;
use safetensors::tensor::{Dtype, TensorView};
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};
use weight_files::WeightFile;

use super::{Checkpoints, Meta, bounds};

/// Version of the metadata format that is written.
pub(crate) const FORMAT: u32 = 3;
/// Format versions that can be read. In format 2 the checksum did not cover the tensors' dtypes.
const READABLE: [u64; 2] = [2, 3];
/// Key of the only metadata entry; several entries would be written in random order.
const META_KEY: &str = "talent";

/// Name of the checkpoint in an exported folder (`export --format hf`).
pub(crate) const MODEL_FILE: &str = "model.safetensors";

/// Parses an argument that names a checkpoint: a file, an exported folder with one, or the folder of a run, which stands for its
/// best model.
pub(crate) fn checkpoint_argument() -> impl clap::builder::TypedValueParser<Value = PathBuf> {
    clap::builder::PathBufValueParser::new().map(|path| {
        let inside = [path.join(MODEL_FILE), Checkpoints::of(&path).best()];
        inside.into_iter().find(|file| file.is_file()).unwrap_or(path)
    })
}

/// Reads the metadata of a checkpoint; `None` if another program wrote it. Nothing is verified, so no decision may depend
/// on the config.
pub(crate) fn read_meta(path: &Path) -> Result<Option<Meta>> {
    meta_of(&WeightFile::open(path)?)
}

fn meta_of(file: &WeightFile) -> Result<Option<Meta>> {
    let path = file.path().display();
    let Some(info) = file.metadata(META_KEY) else {
        // Our document under a different key: the key is damaged.
        let is_ours = |text: &str| text.contains("\"sha256\":") && text.contains("\"position\":");
        ensure!(
            !file.all_metadata().any(|(_, text)| is_ours(text)),
            "{path}: the file is damaged: its metadata does not stand under the key `{META_KEY}`"
        );
        return Ok(None);
    };
    let document: serde_json::Value =
        serde_json::from_str(info).with_context(|| format!("{path}: metadata"))?;
    let format = document["format"].as_u64();
    ensure!(
        format.is_some_and(|format| READABLE.contains(&format)),
        "{path}: this is a checkpoint of format {}, and this program reads formats 2 and 3",
        format.map_or("unknown".to_owned(), |format| format.to_string())
    );
    Ok(Some(serde_json::from_value(document).with_context(|| format!("{path}: metadata"))?))
}

/// Like [`read_meta`], but reads the whole file and verifies its checksum. The returned config is valid for training, and
/// the file holds enough values for its network.
pub(crate) fn verified_meta(path: &Path) -> Result<Option<Meta>> {
    let mut file = WeightFile::open(path)?;
    let Some(meta) = meta_of(&file)? else { return Ok(None) };
    let path = file.path().to_path_buf();
    let found = match meta.format {
        2 => checksum_of_format_2(&mut file, &meta)?,
        _ => checksum(&path, &meta.sha256)?,
    };
    ensure!(
        meta.sha256 == found,
        "{}: the file is damaged: its content does not have the SHA-256 that it names",
        path.display()
    );
    meta.config.validate().with_context(|| format!("{}: its config", path.display()))?;
    bounds::ensure_file_holds(&meta, &file)?;
    Ok(Some(meta))
}

/// SHA-256 of a whole file, with the digits of the checksum itself replaced by zeros.
fn checksum(path: &Path, digits: &str) -> Result<String> {
    let shown = || path.display().to_string();
    let mut file = File::open(path).with_context(shown)?;
    let mut length = [0; 8];
    file.read_exact(&mut length).with_context(shown)?;
    let n_header = u64::from_le_bytes(length);
    ensure!(n_header <= file.metadata().with_context(shown)?.len(), "{}: the file is damaged", shown());
    let mut header = vec![0; usize::try_from(n_header)?];
    file.read_exact(&mut header).with_context(shown)?;
    let at = place_of(digits, &header)
        .with_context(|| format!("{}: the file is damaged: its checksum is malformed", shown()))?;
    header[at].copy_from_slice(NO_CHECKSUM.as_bytes());
    let mut hasher = Sha256::new_with_prefix(length);
    hasher.update(&header);
    std::io::copy(&mut file, &mut hasher).with_context(shown)?;
    Ok(hex(hasher))
}

/// Placeholder for the checksum while it is computed.
const NO_CHECKSUM: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Byte range of the checksum's digits in a file's header, where the metadata is a JSON document in a JSON string. The
/// encoders' checksums have the same key, so the digits must match, too; `None` unless there is exactly one match.
fn place_of(digits: &str, header: &[u8]) -> Option<std::ops::Range<usize>> {
    if digits.len() != NO_CHECKSUM.len() {
        return None;
    }
    let entry = format!(r#"\"sha256\":\"{digits}\""#);
    let mut places = memchr::memmem::find_iter(header, entry.as_bytes());
    let start = places.next()? + entry.len() - digits.len() - 2;
    places.next().is_none().then(|| start..start + digits.len())
}

/// The checksum of format 2: SHA-256 of the metadata and of the tensors' names, shapes and bytes.
fn checksum_of_format_2(file: &mut WeightFile, meta: &Meta) -> Result<String> {
    let mut names: Vec<String> = file.tensors().map(|(name, _)| name.to_owned()).collect();
    names.sort_unstable();
    let document = file.metadata(META_KEY).unwrap_or_default();
    let mut hasher = Sha256::new_with_prefix(document.replacen(&meta.sha256, "", 1));
    for name in names {
        let Some(info) = file.info(&name).cloned() else { continue };
        let bytes = file.read(&name)?;
        hasher.update(format!("\n{name}\n{:?}\n{}\n", info.shape, bytes.len()));
        hasher.update(bytes);
    }
    Ok(hex(hasher))
}

/// Writes a checkpoint with its checksum.
pub(crate) fn write_checkpoint(path: &Path, tensors: Vec<(String, Tensor)>, mut meta: Meta) -> Result<()> {
    let mut buffers = buffers(tensors)?;
    buffers.sort_by(|a, b| a.name.cmp(&b.name));
    meta.sha256 = NO_CHECKSUM.into();
    let mut bytes = serialized(&buffers, (META_KEY, &serde_json::to_string(&meta)?))?;
    let n_header = usize::try_from(u64::from_le_bytes(bytes[..8].try_into()?))?;
    let at = place_of(NO_CHECKSUM, &bytes[8..8 + n_header]).context("a checkpoint without a checksum")?;
    let digits = hex(Sha256::new_with_prefix(&bytes));
    bytes[8 + at.start..8 + at.end].copy_from_slice(digits.as_bytes());
    Ok(whole_file::write(path, &bytes)?)
}

/// Writes tensors and one metadata entry as safetensors.
pub(crate) fn write_tensors(path: &Path, tensors: Vec<(String, Tensor)>, info: (&str, &str)) -> Result<()> {
    Ok(whole_file::write(path, &serialized(&buffers(tensors)?, info)?)?)
}

pub(crate) fn hex(hasher: Sha256) -> String {
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

fn serialized(buffers: &[Buffer], info: (&str, &str)) -> Result<Vec<u8>> {
    let mut views = Vec::with_capacity(buffers.len());
    for Buffer { name, dtype, shape, bytes } in buffers {
        views.push((name.as_str(), TensorView::new(*dtype, shape.clone(), bytes)?));
    }
    let info = HashMap::from([(info.0.to_owned(), info.1.to_owned())]);
    Ok(safetensors::serialize(views, Some(info))?)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Encoders, Position};
    use crate::config::{Config, Precision};
    use crate::precision::LossScaler;
    use talent::Talent;

    fn meta() -> Meta {
        Meta {
            format: FORMAT,
            sha256: String::new(),
            config: Config::testbed(),
            position: Position::start(LossScaler::new(Precision::Fp32)),
            encoders: Encoders::default(),
        }
    }

    fn tensors() -> Vec<(String, Tensor)> {
        let model = Talent::new(&Config::testbed().model, Device::Cpu, Kind::Float).unwrap();
        model.store().entries().into_iter().map(|(name, entry)| (name, entry.tensor)).collect()
    }

    #[test]
    fn every_byte_is_covered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        write_checkpoint(&path, tensors(), meta()).unwrap();
        verified_meta(&path).unwrap().unwrap();
        let whole = std::fs::read(&path).unwrap();
        let n_header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
        // Places of all kinds: the length, the header's first and last bytes (spaces), every 97th byte of it, dtypes, and data.
        let header = (0..40).chain((40..n_header).step_by(97)).chain(n_header - 8..n_header + 8);
        let types = memchr::memmem::find_iter(&whole[..n_header], b"F32").take(5).flat_map(|at| [at, at + 1]);
        let data = (n_header + 8..whole.len()).step_by(whole.len() / 7);
        for place in header.chain(types).chain(data) {
            let mut bytes = whole.clone();
            bytes[place] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            assert!(verified_meta(&path).is_err(), "{place}");
        }
    }

    #[test]
    fn another_type_of_the_same_size_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        write_checkpoint(&path, tensors(), meta()).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let at = memchr::memmem::find(&bytes, b"\"F32\"").unwrap();
        bytes[at + 1] = b'I';
        std::fs::write(&path, &bytes).unwrap();
        assert!(verified_meta(&path).unwrap_err().to_string().contains("is damaged"));
    }

    #[test]
    fn a_config_of_more_than_the_file_holds_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let mut meta = meta();
        meta.config.model.image.position_grid = 50_000;
        write_checkpoint(&path, tensors(), meta).unwrap();
        let error = verified_meta(&path).unwrap_err().to_string();
        assert!(error.contains("a.safetensors") && error.contains("values"), "{error}");
    }
}
