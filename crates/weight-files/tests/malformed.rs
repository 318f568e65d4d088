//! Broken and hostile files give one clear error.

use std::io::Write;
use std::path::{Path, PathBuf};

use weight_files::{Error, WeightFile};
use zip::write::SimpleFileOptions;

fn archive(folder: &Path, entries: &[(&str, &[u8])]) -> PathBuf {
    let path = folder.join("weights.pth");
    let mut zip = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in entries {
        zip.start_file(*name, stored).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
    path
}

/// A dictionary with one tensor `w` of float32, as `torch.save` writes it (protocol 2).
fn pickle(shape: [u8; 2], strides: [u8; 2], offset: u8) -> Vec<u8> {
    let mut bytes = b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storage".to_vec();
    bytes.extend(b"ctorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x06tQ");
    bytes.extend([
        b'K', offset, b'K', shape[0], b'K', shape[1], 0x86, b'K', strides[0], b'K', strides[1], 0x86,
    ]);
    bytes.extend(b"\x89ccollections\nOrderedDict\n)RtRs.");
    bytes
}

fn storage() -> Vec<u8> {
    (0..6).flat_map(|value| (value as f32).to_le_bytes()).collect()
}

fn values(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

fn message(path: &Path) -> String {
    WeightFile::open(path).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn strided_views_are_gathered() {
    let folder = tempfile::tempdir().unwrap();
    for (strides, expected) in [([3, 1], [0., 1., 2., 3., 4., 5.]), ([1, 2], [0., 2., 4., 1., 3., 5.])] {
        let path =
            archive(folder.path(), &[("a/data.pkl", &pickle([2, 3], strides, 0)), ("a/data/0", &storage())]);
        let mut file = WeightFile::open(&path).unwrap();
        assert_eq!(file.info("w").unwrap().shape, [2, 3]);
        assert_eq!(values(&file.read("w").unwrap()), expected);
    }
    let path =
        archive(folder.path(), &[("a/data.pkl", &pickle([1, 2], [2, 1], 4)), ("a/data/0", &storage())]);
    assert_eq!(values(&WeightFile::open(&path).unwrap().read("w").unwrap()), [4.0, 5.0]);
}

#[test]
fn tensors_beyond_their_storage_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    // Too many elements, a stride or an offset beyond the storage, and one value repeated more often than the file is long.
    for (shape, strides, offset) in
        [([2, 4], [4, 1], 0), ([2, 3], [200, 1], 0), ([2, 3], [3, 1], 1), ([9, 9], [0, 0], 0)]
    {
        let path = archive(
            folder.path(),
            &[("a/data.pkl", &pickle(shape, strides, offset)), ("a/data/0", &storage())],
        );
        let message = message(&path);
        assert!(message.contains("weights.pth") && message.contains("`w`"), "{message}");
    }
    let path = archive(folder.path(), &[("a/data.pkl", &pickle([2, 3], [3, 1], 0))]);
    assert!(message(&path).contains("data/0"));
}

#[test]
fn objects_that_are_no_tensor_containers_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = archive(folder.path(), &[("a/data.pkl", b"\x80\x02cposix\nsystem\nX\x04\0\0\0true\x85R.")]);
    let error = WeightFile::open(&path).unwrap_err();
    assert!(matches!(error, Error::Pickle { .. }));
    assert!(error.to_string().contains("posix.system"), "{error}");
}

#[test]
fn a_damaged_storage_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path =
        archive(folder.path(), &[("a/data.pkl", &pickle([2, 3], [3, 1], 0)), ("a/data/0", &storage())]);
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(24).position(|window| window == storage()).unwrap();
    bytes[at + 5] ^= 0x40;
    std::fs::write(&path, bytes).unwrap();
    let error = WeightFile::open(&path).unwrap().read("w").unwrap_err();
    assert!(error.to_string().contains("data/0"), "{error}");
}

#[test]
fn other_files_are_named_for_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    assert!(message(&folder.path().join("absent.pth")).contains("absent.pth"));
    assert!(message(&write("empty.safetensors", b"")).contains("empty (0 bytes)"));
    assert!(message(&write("text.pth", b"<!DOCTYPE html> not found")).contains("web page"));
    assert!(message(&write("old.pth", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.")).contains("1.6"));
    let zip = archive(folder.path(), &[("readme.txt", b"hello")]);
    assert!(message(&zip).contains("data.pkl"));
    assert!(message(folder.path()).contains("model.safetensors"));
}

#[test]
fn safetensors_headers_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let write = |header: &str, n_data: usize| {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + n_data, 7);
        std::fs::write(&path, bytes).unwrap();
    };
    write(r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 8);
    assert_eq!(WeightFile::open(&path).unwrap().read("w").unwrap(), [7; 8]);
    for (header, n_data) in [
        (r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 7),
        (r#"{"w":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#, 8),
        (r#"{"w":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}"#, 0),
        (r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}"#, 16),
        (r#"{"w":{"dtype":"F99","shape":[2],"data_offsets":[0,8]}}"#, 8),
        (r#"{"w":"#, 0),
    ] {
        write(header, n_data);
        assert!(message(&path).contains("w.safetensors"), "{header}");
    }
}

#[test]
fn an_index_cannot_point_outside_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    for shard in ["../other.safetensors", "/etc/passwd", "a/b", ""] {
        let index = folder.path().join("model.safetensors.index.json");
        std::fs::write(&index, format!(r#"{{"weight_map":{{"w":"{shard}"}}}}"#)).unwrap();
        assert!(message(folder.path()).contains("no file beside the index"), "{shard}");
    }
}
