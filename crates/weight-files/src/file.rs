use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::Value as Json;

use crate::error::Error;
use crate::safetensors_source::SafetensorsSource;
use crate::tensor::{Scalar, TensorInfo};
use crate::torch_source::TorchSource;

/// A weight file, or the shards that make up one.
///
/// Names of nested dictionaries are joined by `/`: `state_dict/module.neck.txt_proj.bias`. The module names of a TorchScript
/// archive are joined by `.`, as in a state dict.
#[derive(Debug)]
pub struct WeightFile {
    path: PathBuf,
    sources: Vec<Source>,
    /// Index of the source that holds a tensor, by name, in file order.
    tensors: IndexMap<String, usize>,
    config: Option<Json>,
}

#[derive(Debug)]
enum Source {
    Safetensors(SafetensorsSource),
    Torch(TorchSource),
}

impl Source {
    fn open(path: &Path) -> Result<Self, Error> {
        use std::io::Read;
        // Opening a pipe would block.
        if !std::fs::metadata(path).map_err(|error| Error::io(path, error))?.is_file() {
            return Err(Error::malformed(path, "this is not a regular file"));
        }
        let mut start = [0_u8; 8];
        let mut file = std::fs::File::open(path).map_err(|error| Error::io(path, error))?;
        let n = file.read(&mut start).map_err(|error| Error::io(path, error))?;
        if let Some(what) = file_kind::mistaken_file(path) {
            return Err(Error::malformed(path, what));
        }
        match &start[..n] {
            [b'P', b'K', 3 | 5, 4 | 6, ..] => TorchSource::open(path).map(Self::Torch),
            // A pickle: protocol 2, as `torch.save` wrote it before version 1.6, or another kind.
            [0x80, protocol, ..] if (1..=5).contains(protocol) && n == 8 && start[7] != 0 => {
                Err(Error::malformed(
                    path,
                    "a pickle outside a zip container, as PyTorch wrote before version 1.6; load and save it once \
                     with a newer PyTorch",
                ))
            }
            _ => SafetensorsSource::open(path).map(Self::Safetensors),
        }
    }

    fn tensors(&self) -> Box<dyn Iterator<Item = (&String, &TensorInfo)> + '_> {
        match self {
            Self::Safetensors(source) => Box::new(source.tensors()),
            Self::Torch(source) => Box::new(source.tensors()),
        }
    }
}

impl WeightFile {
    /// Opens a weight file, an index file of shards, or a folder. In a folder, the first of these is used: `model.safetensors`,
    /// `model.safetensors.index.json`, `pytorch_model.bin`, `pytorch_model.bin.index.json`. Only names, types and shapes are
    /// read.
    ///
    /// # Errors
    /// When a file is missing or broken, or holds an object that is not a tensor or a container of tensors.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = if path.is_dir() { weights_in(path)? } else { path.to_path_buf() };
        let mut opened = Self { path: file.clone(), sources: vec![], tensors: IndexMap::new(), config: None };
        if file.extension().is_some_and(|extension| extension == "json") {
            opened.open_shards(&file)?;
        } else {
            opened.add(&file)?;
        }
        opened.config = config_of(&file)?;
        Ok(opened)
    }

    fn open_shards(&mut self, index: &Path) -> Result<(), Error> {
        let text = std::fs::read(index).map_err(|error| Error::io(index, error))?;
        if let Some(what) = file_kind::mistaken(&text) {
            return Err(Error::malformed(index, what));
        }
        let Index { weight_map: map } = serde_json::from_slice(file_kind::without_mark(&text))
            .map_err(|error| Error::malformed(index, error.to_string()))?;
        let map = map.ok_or_else(|| Error::malformed(index, "the index has no `weight_map`"))?;
        let mut shards: Vec<&str> = Vec::new();
        for (name, shard) in &map {
            let shard = Some(shard.as_str()).filter(|shard| {
                let mut parts = Path::new(shard).components();
                matches!(parts.next(), Some(std::path::Component::Normal(_))) && parts.next().is_none()
            });
            let shard = shard
                .ok_or_else(|| Error::malformed(index, format!("`{name}` names no file beside the index")))?;
            if !shards.contains(&shard) {
                shards.push(shard);
            }
        }
        shards.sort_unstable();
        for shard in &shards {
            self.add(&index.with_file_name(shard))?;
        }
        for (name, shard) in &map {
            let at = shards.iter().position(|known| *known == shard.as_str());
            if self.tensors.get(name).copied() != at {
                return Err(Error::malformed(index, format!("tensor `{name}` is not in the shard named")));
            }
        }
        match self.tensors.keys().find(|name| !map.contains_key(*name)) {
            Some(name) => {
                Err(Error::malformed(index, format!("tensor `{name}` is in a shard, not in the index")))
            }
            None => Ok(()),
        }
    }

    fn add(&mut self, path: &Path) -> Result<(), Error> {
        let source = Source::open(path)?;
        for (name, _) in source.tensors() {
            if self.tensors.insert(name.clone(), self.sources.len()).is_some() {
                return Err(Error::malformed(path, format!("tensor `{name}` is there twice")));
            }
        }
        self.sources.push(source);
        Ok(())
    }

    /// Path of the opened file; for a folder, the file chosen in it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Contents of `config.json` beside the weights (or `NAME.config.json` beside `NAME.safetensors`), if there is one.
    pub fn config(&self) -> Option<&Json> {
        self.config.as_ref()
    }

    /// All tensors, in file order.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        let sources = self.sources.iter();
        sources.flat_map(|source| source.tensors().map(|(name, info)| (name.as_str(), info)))
    }

    /// Type and shape of a tensor.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        match &self.sources[*self.tensors.get(name)?] {
            Source::Safetensors(source) => source.info(name),
            Source::Torch(source) => source.info(name),
        }
    }

    /// Numbers, booleans and texts stored beside the tensors, by name; empty for safetensors.
    pub fn scalars(&self) -> BTreeMap<&str, &Scalar> {
        let torch = self.sources.iter().filter_map(|source| match source {
            Source::Torch(source) => Some(source.scalars()),
            Source::Safetensors(_) => None,
        });
        torch.flatten().map(|(name, scalar)| (name.as_str(), scalar)).collect()
    }

    /// An entry of a safetensors file's metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.sources.iter().find_map(|source| match source {
            Source::Safetensors(source) => source.metadata(key),
            Source::Torch(_) => None,
        })
    }

    /// All entries of a safetensors file's metadata.
    pub fn all_metadata(&self) -> impl Iterator<Item = (&str, &str)> {
        let safetensors = self.sources.iter().filter_map(|source| match source {
            Source::Safetensors(source) => Some(source.all_metadata()),
            Source::Torch(_) => None,
        });
        safetensors.flatten()
    }

    /// Reads the elements of a tensor, row-major, little-endian.
    ///
    /// # Errors
    /// When there is no such tensor, or the file cannot be read.
    pub fn read(&mut self, name: &str) -> Result<Vec<u8>, Error> {
        let Some(&at) = self.tensors.get(name) else {
            return Err(Error::NoTensor { path: self.path.clone(), name: name.to_owned() });
        };
        match &mut self.sources[at] {
            Source::Safetensors(source) => source.read(name),
            Source::Torch(source) => source.read(name),
        }
    }
}

/// The index file of a sharded checkpoint.
#[derive(Deserialize)]
struct Index {
    weight_map: Option<IndexMap<String, String>>,
}

/// Size limit of a `config.json`, in bytes. Real ones are a few kilobytes; a parsed JSON value may take sixty times its size.
const MAX_CONFIG: u64 = 16 << 20;

/// Finds the weights in a folder. Safetensors are preferred, as in the `transformers` library.
fn weights_in(folder: &Path) -> Result<PathBuf, Error> {
    let names = [
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
    ];
    let found = names.iter().map(|name| folder.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| Error::malformed(folder, format!("the folder holds none of {}", names.join(", "))))
}

fn config_of(file: &Path) -> Result<Option<Json>, Error> {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let own = file.with_file_name(format!("{stem}.config.json"));
    let folder_wide = file.with_file_name("config.json");
    // A folder's `config.json` belongs to the weights that were downloaded with it, not to other files in the folder.
    let is_download = stem.starts_with("model") || stem.starts_with("pytorch_model");
    if own.is_file() {
        read_json(&own).map(Some)
    } else if is_download && folder_wide.is_file() {
        read_json(&folder_wide).map(Some)
    } else {
        Ok(None)
    }
}

fn read_json(path: &Path) -> Result<Json, Error> {
    let length = std::fs::metadata(path).map_err(|error| Error::io(path, error))?.len();
    if length > MAX_CONFIG {
        return Err(Error::malformed(path, format!("{length} bytes are too many for a model's config")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
    serde_json::from_str(&text).map_err(|error| Error::malformed(path, error.to_string()))
}
