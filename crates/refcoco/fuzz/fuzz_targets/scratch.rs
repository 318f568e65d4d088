//! Writes fuzz input to a scratch file, in memory where `/dev/shm` exists, because the readers take files.

use std::path::PathBuf;

pub fn file_with(data: &[u8]) -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    let folder = if memory.is_dir() { memory } else { std::env::temp_dir() };
    let path = folder.join(format!("refcoco-fuzz-{}", std::process::id()));
    std::fs::write(&path, data).expect("the scratch file can be written");
    path
}
