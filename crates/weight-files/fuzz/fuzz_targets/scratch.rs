//! Writes fuzz input to a scratch file, in memory where `/dev/shm` exists, because the reader takes files.

use std::path::PathBuf;

use weight_files::WeightFile;

/// Reads all tensors of a file with this content and ending.
pub fn read_all(data: &[u8], extension: &str) {
    let memory = PathBuf::from("/dev/shm");
    let folder = if memory.is_dir() { memory } else { std::env::temp_dir() };
    let path = folder.join(format!("weight-files-fuzz-{}.{extension}", std::process::id()));
    std::fs::write(&path, data).expect("the scratch file can be written");
    let Ok(mut file) = WeightFile::open(&path) else { return };
    let tensors: Vec<(String, usize)> = file
        .tensors()
        .map(|(name, info)| (name.to_owned(), info.shape.iter().product::<usize>() * info.element.size()))
        .collect();
    for (name, length) in tensors {
        if let Ok(bytes) = file.read(&name) {
            assert_eq!(bytes.len(), length, "{name}");
        }
    }
}
