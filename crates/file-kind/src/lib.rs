//! Recognises files that are not what their name promises: git-lfs pointers, web pages and error messages that a failed
//! download left behind, pointers of git-annex and DVC, compressed files, text in UTF-16, and empty files. Readers ask here when they cannot read
//! a file, so that the message says what happened.
//!
//! ```
//! let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
//! assert!(file_kind::mistaken(pointer).unwrap().contains("git lfs pull"));
//! assert!(file_kind::mistaken(b"<!DOCTYPE html><title>404").unwrap().contains("web page"));
//! assert_eq!(file_kind::mistaken(b"\x80\x02]q\x00."), None);
//! ```

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
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
    if start.is_empty() {
        return Some("the file is empty (0 bytes): the download or the copy failed; fetch it again");
    }
    if let Some(what) = other_encoding(start) {
        return Some(what);
    }
    if start.len() == PREFIX_LEN && start.iter().all(|byte| *byte == 0) {
        return Some("the file begins with zeros alone: the download or the copy failed; fetch it again");
    }
    if start.starts_with(b"\0\x05\x16\x07") {
        return Some("this is what macOS stores beside a file (`._NAME`), not the file itself");
    }
    let text = without_mark(start).trim_ascii_start();
    // The content, or the target of a link that a file system without links made a file.
    let is_target = text.starts_with(b".git/annex/objects/")
        || text.starts_with(b"../") && first_line_holds(text, b"/.git/annex/objects/");
    if text.starts_with(b"/annex/objects/") || is_target {
        return Some(
            "this is a git-annex pointer in place of the file: run `git annex get` in the repository it is from",
        );
    }
    if text.starts_with(b"outs:\n- md5:") || text.starts_with(b"outs:\n- hash:") {
        return Some(
            "this is a DVC pointer in place of the file: run `dvc pull` in the repository it is from",
        );
    }
    if is_git_pointer(text) {
        return Some(
            "this is a git-lfs pointer in place of the file: run `git lfs pull` in the repository it is from",
        );
    }
    let lower = text.to_ascii_lowercase();
    let markup = without_comments(&lower);
    if ["<!doctype html", "<html", "<head", "<body", "<title", "<script", "<meta", "<center"]
        .iter()
        .any(|mark| markup.starts_with(mark.as_bytes()))
    {
        return Some("this is a web page in place of the file: the download failed; fetch it again");
    }
    if markup.starts_with(b"<?xml") || markup.starts_with(b"<error") {
        return Some(
            "this is an XML document, such as a server's error message: the download failed; fetch it again",
        );
    }
    let is_short = start.len() < PREFIX_LEN;
    (is_short && is_server_message(&lower)).then_some(
        "this is a server's error message in place of the file: the download failed; fetch it again",
    )
}

/// Compressed files, and text in another encoding than UTF-8.
fn other_encoding(start: &[u8]) -> Option<&'static str> {
    // Without a mark: every other byte of ASCII text is 0.
    if matches!(start, [b'{' | b'[' | b'"', 0, ..] | [0, b'{' | b'[' | b'"', ..]) {
        return Some(UTF16);
    }
    let kinds: [(&[u8], &str); 10] = [
        (b"\xFF\xFE\0\0", "this is text in UTF-32: save it as UTF-8"),
        (b"\xFF\xFE", UTF16),
        (b"\xFE\xFF", UTF16),
        (b"\x1F\x8B", "this is a file compressed with gzip: unpack it with `gunzip`"),
        (b"BZh", "this is a file compressed with bzip2: unpack it with `bunzip2`"),
        (b"\xFD7zXZ\x00", "this is a file compressed with xz: unpack it with `unxz`"),
        (b"\x28\xB5\x2F\xFD", "this is a file compressed with Zstandard: unpack it with `unzstd`"),
        (b"\x04\x22\x4D\x18", "this is a file compressed with LZ4: unpack it with `unlz4`"),
        (b"7z\xBC\xAF\x27\x1C", "this is a 7-Zip archive: unpack it, or pack its files as zip"),
        (b"Rar!\x1A\x07", "this is a RAR archive: unpack it, or pack its files as zip"),
    ];
    // A safetensors file begins with the length of its header, whose bytes may be any.
    if start.get(5..9) == Some(b"\0\0\0{") {
        return None;
    }
    let is_tar = start.get(257..262) == Some(b"ustar");
    let tar = is_tar.then_some("this is a tar archive: unpack it, or pack its files as zip");
    kinds.iter().find(|(mark, _)| start.starts_with(mark)).map(|(_, what)| *what).or(tar)
}

const UTF16: &str = "this is text in UTF-16, as some Windows programs write it: save it as UTF-8";

/// Pointers of git-lfs and of its forerunners.
fn is_git_pointer(text: &[u8]) -> bool {
    let after =
        ["version https://", "version http://"].iter().find_map(|mark| text.strip_prefix(mark.as_bytes()));
    let hosts = ["git-lfs.github.com/spec/", "hawser.github.com/spec/", "git-media.io/v/"];
    after.is_some_and(|rest| hosts.iter().any(|host| rest.starts_with(host.as_bytes())))
        || text.starts_with(b"# git-media")
}

/// Whether the first line of a text holds a word.
fn first_line_holds(text: &[u8], word: &[u8]) -> bool {
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    line.windows(word.len()).any(|part| part == word)
}

/// What a zip archive is in the place of a file of text or of a pickle, as the end of a sentence; `None` for other files. [`mistaken`]
/// leaves zip archives alone, since some readers read them.
///
/// - start: the first [`PREFIX_LEN`] bytes of the file
pub fn zip_in_place(start: &[u8]) -> Option<&'static str> {
    let holds = |word: &[u8]| start.windows(word.len()).any(|part| part == word);
    if !start.starts_with(b"PK\x03\x04") {
        return None;
    }
    Some(match () {
        () if holds(b"[Content_Types].xml") || holds(b"xl/") => {
            "this is an Excel workbook: save its sheet as CSV (UTF-8)"
        }
        () if holds(b"/data.pkl") => {
            "this is a file of `torch.save`: write it with `pickle` or `json` instead"
        }
        () => "this is a zip archive in place of the file: unpack it",
    })
}

/// Markup without the comments and the white space in front of it.
fn without_comments(mut markup: &[u8]) -> &[u8] {
    while let Some(rest) = markup.strip_prefix(b"<!--") {
        let Some(end) = rest.windows(3).position(|part| part == b"-->") else { return markup };
        markup = rest[end + 3..].trim_ascii_start();
    }
    markup
}

/// Text behind white space, colons, brackets and dashes.
fn without_punctuation(text: &[u8]) -> &[u8] {
    let is_mark = |byte: &u8| byte.is_ascii_whitespace() || b":(-".contains(byte);
    let n = text.iter().take_while(|byte| is_mark(byte)).count();
    &text[n..]
}

/// Whether a short text is what servers answer in place of a file, in plain words or as JSON.
///
/// - lower: the text in lower case
fn is_server_message(lower: &[u8]) -> bool {
    let sentences = [
        "not found",
        "file not found",
        "entry not found",
        "repository not found",
        "access denied",
        "access to model",
        "access to dataset",
        "forbidden",
        "unauthorized",
        "invalid username or password",
        "invalid credentials",
        "too many requests",
        "rate limit exceeded",
        "internal server error",
        "bad gateway",
        "service unavailable",
        "gateway timeout",
    ];
    let says = |text: &[u8]| sentences.iter().any(|sentence| text.starts_with(sentence.as_bytes()));
    // "404: Not Found", "HTTP/1.1 404 Not Found", "Error 404 (Not Found)".
    let is_status = |text: &[u8]| {
        let text = text.strip_prefix(b"http/").map_or(text, |rest| {
            rest.iter().position(|byte| *byte == b' ').map_or(rest, |at| &rest[at + 1..])
        });
        let text = text.strip_prefix(b"error ").unwrap_or(text);
        matches!(text, [b'4' | b'5', a, b, rest @ ..] if a.is_ascii_digit() && b.is_ascii_digit()
            && says(without_punctuation(rest)))
    };
    let first_key = |text: &[u8]| {
        let inside = text.strip_prefix(b"{")?.trim_ascii_start().strip_prefix(b"\"")?;
        Some(
            ["error", "errors", "message", "detail", "error_message"]
                .iter()
                .any(|key| inside.strip_prefix(key.as_bytes()).is_some_and(|rest| rest.starts_with(b"\""))),
        )
    };
    says(lower) || is_status(lower) || first_key(lower).unwrap_or(false)
}

/// What a file is that a zip reader cannot read and that begins like a zip archive without having its end, as the end of a
/// sentence; `None` for others, and if it cannot be read.
pub fn cut_zip(path: &Path) -> Option<&'static str> {
    if !std::fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut file = File::open(path).ok()?;
    let mut start = [0; 4];
    file.read_exact(&mut start).ok()?;
    let length = file.seek(SeekFrom::End(0)).ok()?;
    file.seek(SeekFrom::Start(length.saturating_sub(ZIP_END))).ok()?;
    let mut end = Vec::new();
    file.take(ZIP_END).read_to_end(&mut end).ok()?;
    let has_end = end.windows(4).any(|bytes| bytes == b"PK\x05\x06");
    (start == *b"PK\x03\x04" && !has_end).then_some(
        "it begins like a zip archive, but its table of contents at the end is missing: the download or the copy ended too \
         early; fetch it again",
    )
}

/// Longest end of a zip archive: the record of 22 bytes, and a comment.
const ZIP_END: u64 = 22 + 65_535;

/// [`mistaken`] of a file's beginning. `None` also if the file cannot be read.
pub fn mistaken_file(path: &Path) -> Option<&'static str> {
    mistaken(&start_of(path)?)
}

/// [`mistaken_file`] of a file of text or a pickle, where a zip archive is a mistake, too.
pub fn mistaken_text_file(path: &Path) -> Option<&'static str> {
    let start = start_of(path)?;
    mistaken(&start).or_else(|| zip_in_place(&start))
}

/// A file's first [`PREFIX_LEN`] bytes; `None` if they cannot be read.
fn start_of(path: &Path) -> Option<Vec<u8>> {
    // Opening a pipe would wait for its other end.
    if !std::fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut start = Vec::with_capacity(PREFIX_LEN);
    File::open(path).ok()?.take(PREFIX_LEN as u64).read_to_end(&mut start).ok()?;
    Some(start)
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
        for page in ["<!-- a -->\n<!-- b --><html>", "<title>Sign in", "<script>"] {
            assert!(mistaken(page.as_bytes()).is_some_and(|what| what.contains("web page")), "{page}");
        }
        for message in [
            "404: Not Found",
            "Not Found\n",
            "Entry not found",
            "HTTP/1.1 403 Forbidden",
            "{\"error\":\"Repository not found\"}",
            "{ \"message\" : \"rate limit\"}",
        ] {
            assert!(mistaken(message.as_bytes()).is_some_and(|what| what.contains("server")), "{message}");
        }
        for pointer in ["version http://git-media.io/v/2\n", "version https://hawser.github.com/spec/v1\n"] {
            assert!(
                mistaken(pointer.as_bytes()).is_some_and(|what| what.contains("git lfs pull")),
                "{pointer}"
            );
        }
    }

    #[test]
    fn compressed_files_and_other_encodings_are_named() {
        for (start, what) in [
            (&b"\xFF\xFE{\x00"[..], "UTF-16"),
            (b"\xFE\xFF\x00{", "UTF-16"),
            (b"\x1F\x8B\x08", "gzip"),
            (b"BZh9", "bzip2"),
        ] {
            assert!(mistaken(start).is_some_and(|found| found.contains(what)), "{what}");
        }
        // Lengths of a safetensors header that begin like one of these.
        for length in [0xfeff_u64, 0x088b1f, 0x685a42] {
            let start = [&length.to_le_bytes()[..], b"{\"a\""].concat();
            assert_eq!(mistaken(&start), None, "{length:x}");
        }
    }

    #[test]
    fn pointers_and_leftovers_are_named() {
        let annex = b"../../.git/annex/objects/Xk/2v/SHA256E-s12--ab.jpg/SHA256E-s12--ab.jpg";
        for (start, what) in [
            (&b"/annex/objects/SHA256E-s12--ab.jpg\n"[..], "git annex get"),
            (annex, "git annex get"),
            (b"outs:\n- md5: d41d\n  path: a.jpg\n", "dvc pull"),
            (&[0; PREFIX_LEN], "zeros"),
            (b"\0\x05\x16\x07\0\x02\0\0Mac OS X", "macOS"),
            (b"Rar!\x1a\x07\x01\0", "RAR"),
            (b"\x04\x22\x4d\x18", "LZ4"),
        ] {
            assert!(mistaken(start).is_some_and(|found| found.contains(what)), "{what}");
        }
        assert_eq!(mistaken(&[0; 12]), None);
        for (start, what) in [
            (&b"PK\x03\x04\x14\0\x06\0[Content_Types].xml"[..], "Excel"),
            (b"PK\x03\x04\0\0archive/data.pkl", "torch.save"),
            (b"PK\x03\x04\0\0a.json", "unpack"),
        ] {
            assert!(zip_in_place(start).is_some_and(|found| found.contains(what)), "{what}");
        }
        assert_eq!(zip_in_place(b"{}"), None);
    }

    #[test]
    fn half_a_zip_archive_is_called_that() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"PK\x03\x04 and so on").unwrap();
        assert!(cut_zip(file.path()).is_some_and(|what| what.contains("too early")));
        std::fs::write(file.path(), b"PK\x03\x04 and so on PK\x05\x06").unwrap();
        assert_eq!(cut_zip(file.path()), None);
    }

    #[test]
    fn real_files_are_left_alone() {
        for start in [
            &b"PK\x03\x04"[..],
            b"{\"a\":1}",
            b"[",
            b"\x89PNG",
            b"(lp0\n",
            b"version = 1",
            b"PAR1",
            b" ",
            b"404",
            b"{\"errors_of\": 1}",
            b"4040 not found",
        ] {
            assert_eq!(mistaken(start), None, "{start:?}");
        }
    }
}
