//! Whether a file is what it should be: size, checksum, and the first bytes of its kind.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;

use command_kit::Progress;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::table::Source;
use crate::unpack::Archive;

/// Files from this size on show progress while their checksum is computed.
const LARGE: u64 = 500_000_000;
/// No safetensors file has a longer header.
const LONGEST_HEADER: u64 = 100_000_000;

/// Computes the SHA-256 of a file, as 64 hexadecimal digits.
///
/// # Errors
/// When the file cannot be read.
pub fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(Error::at(path))?;
    let size = file.metadata().map_err(Error::at(path))?.len();
    let mut progress = match size {
        LARGE.. => Progress::bytes(&format!("checking {}", path.display()), size, 0),
        _ => Progress::hidden(),
    };
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        let n = file.read(&mut buffer).map_err(Error::at(path))?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
        progress.advance(n as u64, "");
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What is wrong with a file's size, kind or contents, if anything. Of an archive that is to be unpacked, the wanted files are read to their
/// ends.
///
/// # Errors
/// When the file cannot be read.
pub(crate) fn fault(path: &Path, source: &Source) -> Result<Option<String>> {
    let mut file = File::open(path).map_err(Error::at(path))?;
    let size = file.metadata().map_err(Error::at(path))?.len();
    let mut head = Vec::new();
    file.by_ref().take(512).read_to_end(&mut head).map_err(Error::at(path))?;
    if size == 0 {
        return Ok(Some("the file is empty".into()));
    }
    if let Some(what) = wrong_kind(&head, source.file_name()) {
        return Ok(Some(what));
    }
    if let Some(expected) = source.size.filter(|expected| *expected != size) {
        return Ok(Some(format!("the file has {size} bytes in place of {expected}")));
    }
    if size > source.cap() {
        return Ok(Some(format!("the file has {size} bytes, more than the {} allowed", source.cap())));
    }
    let broken = broken(&mut file, size, &head, source.file_name());
    if broken.is_some() || source.unpack.is_empty() {
        return Ok(broken);
    }
    Ok(Archive::open(path, source).and_then(|mut archive| archive.test()).err())
}

/// Kinds of files whose own contents say where they end.
pub(crate) fn shows_its_end(name: &str) -> bool {
    ["zip", "safetensors", "json"].iter().any(|extension| has_extension(name, extension))
}

/// What the structure of a file says, if it is not whole.
fn broken(file: &mut File, size: u64, head: &[u8], name: &str) -> Option<String> {
    let is_archive = ["zip", "pth", "pt"].iter().any(|extension| has_extension(name, extension));
    if is_archive && head.starts_with(b"PK") && zip::ZipArchive::new(&mut *file).is_err() {
        return Some("the archive is damaged: its list of files cannot be read".into());
    }
    if has_extension(name, "safetensors") {
        return broken_safetensors(file, size);
    }
    if has_extension(name, "json") {
        file.rewind().ok()?;
        let parsed: serde_json::Result<serde::de::IgnoredAny> =
            serde_json::from_reader(std::io::BufReader::new(file));
        return parsed.err().map(|error| format!("the JSON file is damaged: {error}"));
    }
    None
}

/// A safetensors file is 8 bytes with the header's length, the header, and the tensors, of which the header says where they end.
fn broken_safetensors(file: &mut File, size: u64) -> Option<String> {
    let damaged = || Some("the safetensors file is damaged".to_owned());
    let mut length = [0; 8];
    if file.rewind().is_err() || file.read_exact(&mut length).is_err() {
        return damaged();
    }
    let length = u64::from_le_bytes(length);
    if length > LONGEST_HEADER || length + 8 > size {
        return damaged();
    }
    let mut header = vec![0; length as usize];
    if file.read_exact(&mut header).is_err() {
        return damaged();
    }
    let Ok(serde_json::Value::Object(header)) = serde_json::from_slice(&header) else { return damaged() };
    let ends = header.values().filter_map(|tensor| tensor.get("data_offsets")?.get(1)?.as_u64());
    let end = 8 + length + ends.max().unwrap_or(0);
    (end != size)
        .then(|| format!("the safetensors file has {size} bytes in place of the {end} that its header names"))
}

fn has_extension(name: &str, extension: &str) -> bool {
    Path::new(name).extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

/// What the first bytes say, if it is not what the name promises.
pub(crate) fn wrong_kind(head: &[u8], name: &str) -> Option<String> {
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    let first = head.iter().find(|byte| !byte.is_ascii_whitespace());
    let start = String::from_utf8_lossy(&head[..head.len().min(200)]).trim_start().to_ascii_lowercase();
    let text = String::from_utf8_lossy(&head[..head.len().min(40)]);
    let text = text.trim().replace(['\n', '\r'], " ").escape_debug().to_string();
    if ["<!doctype", "<html", "<?xml", "<head", "<title"].iter().any(|tag| start.starts_with(tag)) {
        return Some(format!("this is a web page, not the file: `{text}`"));
    }
    if head.starts_with(b"version https://git-lfs") {
        return Some("this is a git-lfs pointer, not the file".into());
    }
    let zip = head.starts_with(b"PK");
    let (is_right, kind) = match Path::new(name).extension().and_then(|extension| extension.to_str()) {
        Some("zip") => (zip, "a zip archive"),
        // Old files of torch.save are pickles.
        Some("pth" | "pt") => (zip || head.starts_with(&[0x80]), "a PyTorch file"),
        Some("safetensors") => (head.get(8) == Some(&b'{'), "a safetensors file"),
        Some("json") => (matches!(first, Some(b'{' | b'[')), "a JSON file"),
        _ => (true, ""),
    };
    (!is_right).then(|| format!("this is not {kind}; it begins with `{text}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_their_first_bytes() {
        assert_eq!(wrong_kind(b"PK\x03\x04", "a.zip"), None);
        assert_eq!(wrong_kind(b"\x80\x02", "a.pth"), None);
        assert_eq!(wrong_kind(b"\x10\0\0\0\0\0\0\0{}", "a.safetensors"), None);
        assert_eq!(wrong_kind(b" {\"a\": 1}", "config.json"), None);
        assert_eq!(wrong_kind(b"anything", "notes.txt"), None);
        for (head, name, expected) in [
            (b"\n<!DOCTYPE html>".as_slice(), "a.zip", "web page"),
            (b"<html>", "notes.txt", "web page"),
            (b"404: Not Found", "a.zip", "not a zip archive"),
            (b"{\"error\": 1}", "a.pth", "not a PyTorch file"),
            (b"{\"error\": 1}", "a.safetensors", "not a safetensors file"),
            (b"version https://git-lfs.github.com/spec/v1", "a.safetensors", "git-lfs"),
        ] {
            assert!(wrong_kind(head, name).unwrap().contains(expected), "{name}");
        }
    }
}
