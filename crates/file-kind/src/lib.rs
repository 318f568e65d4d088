//! Recognises files that are not what their name promises: git-lfs pointers, web pages and error documents that a failed
//! download left behind, and empty files. Readers ask here when they cannot read a file, so that the message says what happened.
//!
//! ```
//! let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
//! assert!(file_kind::mistaken(pointer).unwrap().contains("git lfs pull"));
//! assert!(file_kind::mistaken(b"<!DOCTYPE html><title>404").unwrap().contains("web page"));
//! assert_eq!(file_kind::mistaken(b"\x80\x02]q\x00."), None);
//! ```

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Bytes of a file's beginning that [`mistaken`] looks at.
pub const PREFIX_LEN: usize = 512;

/// UTF-8's byte order mark, with which some Windows editors begin a text file.
pub const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Removes a byte order mark from the start of a text file's bytes.
pub fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes)
}

/// What the file contains instead of the expected content, and what to do about it, as the end of a sentence; `None` if it is
/// nothing known.
///
/// - start: the first [`PREFIX_LEN`] bytes of the file, or all of a shorter one
pub fn mistaken(start: &[u8]) -> Option<&'static str> {
    let text = without_mark(start).trim_ascii_start();
    if start.is_empty() {
        return Some("the file is empty (0 bytes): the download or the copy failed; fetch it again");
    }
    if text.starts_with(b"version https://git-lfs.github.com/spec/") {
        return Some(
            "this is a git-lfs pointer in place of the file: run `git lfs pull` in the repository it is from",
        );
    }
    let lower: Vec<u8> = text.iter().take(64).map(u8::to_ascii_lowercase).collect();
    if [&b"<!doctype html"[..], b"<html", b"<head", b"<body"].iter().any(|mark| lower.starts_with(mark)) {
        return Some("this is a web page in place of the file: the download failed; fetch it again");
    }
    if lower.starts_with(b"<?xml") || lower.starts_with(b"<error") {
        return Some(
            "this is an XML document, such as a server's error message: the download failed; fetch it again",
        );
    }
    None
}

/// [`mistaken`] of a file's beginning. `None` also if the file cannot be read.
pub fn mistaken_file(path: &Path) -> Option<&'static str> {
    // Opening a pipe would wait for its other end.
    if !std::fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut start = Vec::with_capacity(PREFIX_LEN);
    File::open(path).ok()?.take(PREFIX_LEN as u64).read_to_end(&mut start).ok()?;
    mistaken(&start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_downloads_leave_is_recognised() {
        for page in ["\n  <HTML><body>", "<!doctype HTML>", "\u{feff}<html>"] {
            assert!(mistaken(page.as_bytes()).is_some_and(|what| what.contains("web page")), "{page}");
        }
        let denied = "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>";
        assert!(mistaken(denied.as_bytes()).is_some_and(|what| what.contains("XML")));
        assert!(mistaken(b"").is_some_and(|what| what.contains("empty")));
    }

    #[test]
    fn real_files_are_left_alone() {
        for start in
            [&b"PK\x03\x04"[..], b"{\"a\":1}", b"[", b"\x89PNG", b"(lp0\n", b"version = 1", b"PAR1", b" "]
        {
            assert_eq!(mistaken(start), None, "{start:?}");
        }
    }
}
