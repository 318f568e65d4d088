//! Reads PyTorch's zip containers: a pickle that describes objects, and one uncompressed entry per storage.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use safe_pickle::{Object, Value};
use zip::ZipArchive;

use crate::error::Error;
use crate::tensor::{Element, Scalar, TensorInfo};

/// Nested dictionaries and modules deeper than this are refused; real files stay below ten.
const MAX_DEPTH: usize = 64;
/// Maximum number of entries, more than in any real file. A pickle can repeat one value without end.
const MAX_ENTRIES: usize = 4_000_000;
/// Maximum size of the pickle, in bytes. It holds names and shapes, no weights.
const MAX_PICKLE: u64 = 1 << 30;

/// Whether a function or class creates tensors or contains them.
fn is_tensor_container(name: &str) -> bool {
    const KNOWN: [&str; 7] = [
        "collections.OrderedDict",
        "collections.Counter",
        "collections.defaultdict",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
        "torch.Size",
        "torch.device",
    ];
    // The modules of a TorchScript archive are classes below `__torch__`, which only the archive itself defines.
    KNOWN.contains(&name) || name.starts_with("__torch__.") || Element::from_storage_class(name).is_some()
}

#[derive(Debug)]
pub(crate) struct TorchSource {
    path: PathBuf,
    archive: ZipArchive<File>,
    tensors: IndexMap<String, TensorInfo>,
    /// Where each tensor's elements are, in the order of `tensors`.
    views: Vec<View>,
    scalars: BTreeMap<String, Scalar>,
    /// Name and bytes of the storage read last; several tensors may share one.
    cached: Option<(String, Vec<u8>)>,
}

/// A tensor as a view of a storage; offset and strides in elements.
#[derive(Debug, Clone, PartialEq, Eq)]
struct View {
    /// Name of the zip entry.
    storage: String,
    offset: usize,
    strides: Vec<usize>,
}

impl TorchSource {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(|error| Error::io(path, error))?;
        let mut archive = ZipArchive::new(file).map_err(|error| match file_kind::cut_zip(path) {
            Some(what) => Error::malformed(path, what),
            None => Error::malformed(path, error.to_string()),
        })?;
        let pickle_name = archive
            .file_names_raw()
            .filter_map(|name| std::str::from_utf8(name).ok())
            .find(|name| name.split_once('/').is_some_and(|(_, rest)| rest == "data.pkl"))
            .map(str::to_owned)
            .ok_or_else(|| Error::malformed(path, "a zip file without PyTorch's data.pkl"))?;
        let root = pickle_name.trim_end_matches("data.pkl").to_owned();
        // Files from before PyTorch 2.1 do not state their byte order.
        let order = read_entry(&mut archive, path, &format!("{root}byteorder"), 16);
        if order.is_ok_and(|order| order != b"little") {
            return Err(Error::malformed(path, "its numbers are not little-endian"));
        }
        let pickle = read_entry(&mut archive, path, &pickle_name, MAX_PICKLE)?;
        let document = safe_pickle::parse_objects(&pickle, &is_tensor_container)
            .map_err(|source| Error::Pickle { path: path.to_path_buf(), source })?;
        let mut walk = Walk {
            path,
            root: &root,
            tensors: IndexMap::new(),
            views: vec![],
            scalars: BTreeMap::new(),
            n: 0,
        };
        walk.visit(document.root(), String::new(), 0)?;
        let Walk { tensors, views, scalars, .. } = walk;
        for (name, view) in tensors.keys().zip(&views) {
            check_bounds(&archive, &tensors[name], view)
                .map_err(|what| Error::malformed(path, format!("tensor `{name}`: {what}")))?;
        }
        Ok(Self { path: path.to_path_buf(), archive, tensors, views, scalars, cached: None })
    }

    pub(crate) fn tensors(&self) -> impl Iterator<Item = (&String, &TensorInfo)> {
        self.tensors.iter()
    }

    pub(crate) fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    pub(crate) fn scalars(&self) -> impl Iterator<Item = (&String, &Scalar)> {
        self.scalars.iter()
    }

    pub(crate) fn read(&mut self, name: &str) -> Result<Vec<u8>, Error> {
        let found = self.tensors.get_full(name);
        let (index, _, info) =
            found.ok_or_else(|| Error::NoTensor { path: self.path.clone(), name: name.to_owned() })?;
        let (info, view) = (info.clone(), self.views[index].clone());
        if self.cached.as_ref().is_none_or(|(storage, _)| *storage != view.storage) {
            // Freed before the next one is read, so that there are never two in memory.
            self.cached = None;
            let bytes = read_entry(&mut self.archive, &self.path, &view.storage, u64::MAX)?;
            self.cached = Some((view.storage.clone(), bytes));
        }
        let whole = view.offset == 0 && contiguous(&info.shape, &view.strides);
        match &mut self.cached {
            // A tensor that is a whole storage, the usual case, is moved out and not copied.
            cached @ Some(_) if whole && cached.as_ref().map(|(_, bytes)| bytes.len()) == info.byte_len() => {
                Ok(cached.take().map(|(_, bytes)| bytes).unwrap_or_default())
            }
            Some((_, bytes)) => Ok(gather(bytes, &info, &view)),
            None => Err(Error::NoTensor { path: self.path.clone(), name: name.to_owned() }),
        }
    }
}

/// Reads a zip entry; its checksum is verified.
fn read_entry(archive: &mut ZipArchive<File>, path: &Path, name: &str, limit: u64) -> Result<Vec<u8>, Error> {
    let broken = |what: String| Error::malformed(path, format!("entry `{name}`: {what}"));
    let mut entry = archive.by_name(name).map_err(|error| broken(error.to_string()))?;
    // Entries are uncompressed. A size above the compressed size or the file's size is false and would waste memory.
    let file_len = std::fs::metadata(path).map_err(|error| Error::io(path, error))?.len();
    if entry.size() > limit || entry.size() > entry.compressed_size() || entry.size() > file_len {
        return Err(broken(format!("{} bytes are not credible", entry.size())));
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(entry.size() as usize).map_err(|error| broken(error.to_string()))?;
    entry.read_to_end(&mut bytes).map_err(|error| broken(error.to_string()))?;
    Ok(bytes)
}

/// Collects the tensors and scalars of a pickle.
struct Walk<'a> {
    path: &'a Path,
    root: &'a str,
    tensors: IndexMap<String, TensorInfo>,
    views: Vec<View>,
    scalars: BTreeMap<String, Scalar>,
    n: usize,
}

impl Walk<'_> {
    fn malformed(&self, name: &str, what: &str) -> Error {
        Error::malformed(self.path, format!("`{name}`: {what}"))
    }

    fn visit(&mut self, value: Value<'_>, name: String, depth: usize) -> Result<(), Error> {
        self.n += 1;
        if depth > MAX_DEPTH || self.n > MAX_ENTRIES {
            return Err(self.malformed(&name, "nested too deeply, or too many entries"));
        }
        if let Some(object) = value.object() {
            return match object.class() {
                "torch._utils._rebuild_tensor_v2" => self.tensor(object, name),
                "torch._utils._rebuild_parameter" => {
                    match object.args().items().and_then(|mut args| args.next()) {
                        Some(tensor) => self.visit(tensor, name, depth + 1),
                        None => Err(self.malformed(&name, "a parameter without a tensor")),
                    }
                }
                class if class.starts_with("__torch__.") => match object.state() {
                    Some(state) => self.entries(state, &name, '.', depth),
                    None => Ok(()),
                },
                "collections.Counter" => {
                    let counts = object.args().items().and_then(|mut args| args.next());
                    counts.map_or(Ok(()), |counts| self.entries(counts, &name, '/', depth))
                }
                _ => self.entries(value, &name, '/', depth),
            };
        }
        if value.pairs().is_some() {
            return self.entries(value, &name, '/', depth);
        }
        if let Some(items) = value.items() {
            for (index, item) in items.enumerate() {
                self.visit(item, join(&name, '/', &index.to_string()), depth + 1)?;
            }
            return Ok(());
        }
        let scalar = value
            .as_bool()
            .map(Scalar::Bool)
            .or_else(|| value.as_i64().map(Scalar::Int))
            .or_else(|| value.as_f64().map(Scalar::Float))
            .or_else(|| value.as_str().map(|text| Scalar::Text(text.to_owned())));
        if let Some(scalar) = scalar {
            self.scalars.insert(name, scalar);
        }
        Ok(())
    }

    fn entries(&mut self, value: Value<'_>, name: &str, separator: char, depth: usize) -> Result<(), Error> {
        for (key, value) in value.pairs().into_iter().flatten() {
            let key = match (key.as_str(), key.as_i64()) {
                (Some(text), _) => text.to_owned(),
                (None, Some(number)) => number.to_string(),
                (None, None) => return Err(self.malformed(name, "a key that is neither text nor a number")),
            };
            self.visit(value, join(name, separator, &key), depth + 1)?;
        }
        Ok(())
    }

    /// `_rebuild_tensor_v2(storage, offset, shape, strides, ...)`. The storage is a persistent id: `("storage", class, key,
    /// device, n)` with the number of elements n. The device is ignored.
    fn tensor(&mut self, object: Object<'_>, name: String) -> Result<(), Error> {
        let parsed = || -> Option<(TensorInfo, View)> {
            let mut args = object.args().items()?;
            let mut storage = args.next()?.persistent_id()?.items()?;
            let is_storage = storage.next()?.as_str()? == "storage";
            let element = Element::from_storage_class(storage.next()?.as_global()?).filter(|_| is_storage)?;
            let key = storage.next()?.as_str()?;
            let offset = usize::try_from(args.next()?.as_i64()?).ok()?;
            let mut lengths = || -> Option<Vec<usize>> {
                args.next()?.items()?.map(|n| usize::try_from(n.as_i64()?).ok()).collect()
            };
            let (shape, strides) = (lengths()?, lengths()?);
            let consistent = shape.len() == strides.len() && shape.len() <= 16;
            let storage = format!("{}data/{key}", self.root);
            consistent.then_some((TensorInfo { element, shape }, View { storage, offset, strides }))
        };
        let (info, view) = parsed().ok_or_else(|| self.malformed(&name, "a tensor of unknown make-up"))?;
        // If a name occurs twice, the later entry counts, as in Python.
        let (index, before) = self.tensors.insert_full(name, info);
        match before {
            Some(_) => self.views[index] = view,
            None => self.views.push(view),
        }
        Ok(())
    }
}

fn join(name: &str, separator: char, key: &str) -> String {
    if name.is_empty() { key.to_owned() } else { format!("{name}{separator}{key}") }
}

fn contiguous(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1;
    for (&n, &stride) in shape.iter().zip(strides).rev() {
        if n > 1 && stride != expected {
            return false;
        }
        expected *= n;
    }
    true
}

/// Checks that every element of a tensor lies in its storage, and that it claims no more elements than the storage has.
fn check_bounds(archive: &ZipArchive<File>, info: &TensorInfo, view: &View) -> Result<(), String> {
    let index = archive.index_for_name(&view.storage);
    let entry = index.and_then(|index| archive.by_index_data(index).ok());
    let entry = entry.ok_or_else(|| format!("there is no entry `{}`", view.storage))?;
    let available = usize::try_from(entry.size()).unwrap_or(usize::MAX) / info.element.size();
    let count = info.shape.iter().try_fold(1_usize, |product, &n| product.checked_mul(n));
    if count == Some(0) {
        return Ok(());
    }
    let last = info.shape.iter().zip(&view.strides).try_fold(view.offset, |last, (&n, &stride)| {
        (n - 1).checked_mul(stride).and_then(|step| last.checked_add(step))
    });
    match (count, last) {
        (Some(count), Some(last)) if count <= available && last < available => Ok(()),
        _ => Err(format!("shape {:?} reaches beyond its storage of {available} entries", info.shape)),
    }
}

/// Copies a view out of its storage, row-major.
fn gather(storage: &[u8], info: &TensorInfo, view: &View) -> Vec<u8> {
    let size = info.element.size();
    let n: usize = info.shape.iter().product();
    if contiguous(&info.shape, &view.strides) {
        return storage[view.offset * size..(view.offset + n) * size].to_vec();
    }
    let mut bytes = Vec::with_capacity(n * size);
    let mut index = vec![0; info.shape.len()];
    for _ in 0..n {
        let at = view.offset + index.iter().zip(&view.strides).map(|(i, stride)| i * stride).sum::<usize>();
        bytes.extend_from_slice(&storage[at * size..(at + 1) * size]);
        for axis in (0..index.len()).rev() {
            index[axis] += 1;
            if index[axis] < info.shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    bytes
}
