//! Reads safetensors tensor by tensor. The `safetensors` crate needs the whole file in memory or memory-mapped, and a mapped
//! file that shrinks kills the process.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::Error;
use crate::tensor::{Element, TensorInfo};

/// Maximum size of a header in the format, in bytes.
const MAX_HEADER: u64 = 100_000_000;

#[derive(Debug)]
pub(crate) struct SafetensorsSource {
    path: PathBuf,
    file: File,
    tensors: IndexMap<String, TensorInfo>,
    /// Offset of each tensor in the file, in the order of `tensors`.
    offsets: Vec<u64>,
    metadata: Vec<(String, String)>,
}

/// Start, end, name and info of a tensor. Offsets count from the end of the header.
type Placed = (u64, u64, String, TensorInfo);

/// Sorts tensors by offset, and refuses gaps and overlaps: the tensors must fill the data.
fn check_ranges(path: &Path, placed: &mut [Placed], data_len: u64) -> Result<(), Error> {
    placed.sort_by_key(|&(start, end, ..)| (start, end));
    let mut expected = 0;
    for (start, end, name, _) in &*placed {
        if *start != expected {
            let what = format!("tensor `{name}`: its byte range leaves a gap or overlaps");
            return Err(Error::malformed(path, what));
        }
        expected = *end;
    }
    if expected != data_len {
        let what = format!("the header describes {expected} bytes of tensors, the file holds {data_len}");
        return Err(Error::malformed(path, what));
    }
    Ok(())
}

impl SafetensorsSource {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let io = |error| Error::io(path, error);
        let mut file = File::open(path).map_err(io)?;
        let file_len = file.metadata().map_err(io)?.len();
        let mut length = [0; 8];
        let header_len = match file.read_exact(&mut length) {
            Ok(()) => u64::from_le_bytes(length),
            Err(_) => return Err(Error::malformed(path, "too short for a weight file")),
        };
        if header_len > MAX_HEADER || header_len > file_len - 8 {
            return Err(Error::malformed(
                path,
                "neither a safetensors file nor a zip container of PyTorch's",
            ));
        }
        let mut header = vec![0; header_len as usize];
        file.read_exact(&mut header).map_err(io)?;
        // Parsed entry by entry: a JSON value of a whole header could take many times its size.
        let entries: IndexMap<String, &RawValue> = serde_json::from_slice(&header)
            .map_err(|error| Error::malformed(path, format!("not a safetensors header: {error}")))?;

        let mut metadata = Vec::new();
        let mut placed: Vec<Placed> = Vec::new();
        for (name, entry) in entries {
            if name == "__metadata__" {
                let pairs: IndexMap<String, String> = serde_json::from_str(entry.get())
                    .map_err(|error| Error::malformed(path, format!("its metadata: {error}")))?;
                metadata = pairs.into_iter().collect();
                continue;
            }
            let (info, start, end) = parse_entry(entry).ok_or_else(|| {
                Error::malformed(path, format!("tensor `{name}`: its header entry is broken"))
            })?;
            if start > end || info.byte_len().map(|n| n as u64) != Some(end - start) {
                return Err(Error::malformed(
                    path,
                    format!("tensor `{name}`: shape and byte range disagree"),
                ));
            }
            placed.push((start, end, name, info));
        }
        check_ranges(path, &mut placed, file_len - 8 - header_len)?;
        let offsets = placed.iter().map(|(start, ..)| 8 + header_len + start).collect();
        let tensors = placed.into_iter().map(|(_, _, name, info)| (name, info)).collect();
        Ok(Self { path: path.to_path_buf(), file, tensors, offsets, metadata })
    }

    pub(crate) fn tensors(&self) -> impl Iterator<Item = (&String, &TensorInfo)> {
        self.tensors.iter()
    }

    pub(crate) fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    pub(crate) fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    pub(crate) fn all_metadata(&self) -> impl Iterator<Item = (&str, &str)> {
        self.metadata.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    pub(crate) fn read(&mut self, name: &str) -> Result<Vec<u8>, Error> {
        let no_tensor = || Error::NoTensor { path: self.path.clone(), name: name.to_owned() };
        let (index, _, info) = self.tensors.get_full(name).ok_or_else(no_tensor)?;
        let mut bytes = vec![0; info.byte_len().ok_or_else(no_tensor)?];
        self.file
            .seek(SeekFrom::Start(self.offsets[index]))
            .and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(|error| Error::io(&self.path, error))?;
        Ok(bytes)
    }
}

/// Header entry of a tensor.
#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

fn parse_entry(entry: &RawValue) -> Option<(TensorInfo, u64, u64)> {
    let Entry { dtype, shape, data_offsets: [start, end] } = serde_json::from_str(entry.get()).ok()?;
    let element = Element::from_safetensors(&dtype)?;
    Some((TensorInfo { element, shape }, start, end))
}
