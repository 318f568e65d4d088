//! Reads files with one JSON object per line (JSONL).

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde_json::value::RawValue;

use crate::error::{Error, Result, io_error};
use crate::memory_rule::{VARIABLE, line_limit};
use crate::reader::json_text;
use crate::regular_file::open_regular;

/// Lines of a file, or elements of a JSON array, each with its number, counted from 1.
pub type Lines = Box<dyn Iterator<Item = Result<(usize, String)>>>;

/// Iterates over the lines of a file that are not blank, each with its line number, counted from 1. A byte order mark at the
/// start is left out. A file that is one JSON array instead gives its elements, each with its number in the array.
///
/// # Errors
/// When the file cannot be opened or is not a regular file. An item is an error when its line cannot be read, is not UTF-8, or
/// is longer than the memory limit for one file allows (`TALENT_MAX_IMAGE_MIB`); the iterator then ends.
pub fn read_lines(path: &Path) -> Result<Lines> {
    let limit = line_limit()?;
    if let Some(what) =
        file_kind::mistaken_file(path).filter(|_| path.metadata().is_ok_and(|found| found.len() > 0))
    {
        return Err(Error::Mistaken { path: path.to_path_buf(), what });
    }
    let mut file = BufReader::new(open_regular(path)?);
    let start = file.fill_buf().map_err(io_error(path))?;
    let n_mark = start.len() - file_kind::without_mark(start).len();
    let is_array = start[n_mark..].trim_ascii_start().starts_with(b"[");
    file.consume(n_mark);
    if is_array {
        return elements(path, file, limit);
    }
    Ok(Box::new(lines(path, file, limit)))
}

/// The elements of a file that is one JSON array.
fn elements(path: &Path, file: impl Read, limit: u64) -> Result<Lines> {
    let fail =
        |what: String| Error::Record { path: path.to_path_buf(), record: "the JSON array".into(), what };
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(io_error(path))?;
    if bytes.len() as u64 > limit {
        let what = format!("it is longer than {} MiB; write one object a line (JSONL)", limit >> 20);
        return Err(fail(what));
    }
    let read: Result<Vec<Box<RawValue>>, _> = serde_json::from_slice(&json_text(&bytes));
    let items = read.map_err(|error| fail(format!("{error}; one object a line (JSONL) is expected here")))?;
    let items = items.into_iter().enumerate();
    Ok(Box::new(items.map(|(index, item)| Ok((index + 1, item.get().replace('\n', " "))))))
}

fn lines(
    path: &Path,
    mut file: BufReader<File>,
    limit: u64,
) -> impl Iterator<Item = Result<(usize, String)>> + use<> {
    let path = path.to_path_buf();
    let mut number = 0;
    let mut failed = false;
    std::iter::from_fn(move || {
        while !failed {
            number += 1;
            let mut line = Vec::new();
            let fail =
                |what: String| Error::Record { path: path.clone(), record: format!("line {number}"), what };
            let read = file.by_ref().take(limit + 1).read_until(b'\n', &mut line).map_err(io_error(&path));
            let text = read.and_then(|_| {
                if line.len() as u64 > limit {
                    return Err(fail(format!(
                        "it is longer than {} MiB; {VARIABLE} can allow more",
                        limit >> 20
                    )));
                }
                String::from_utf8(std::mem::take(&mut line))
                    .map_err(|error| fail(error.utf8_error().to_string()))
            });
            match text {
                Ok(text) if text.is_empty() => return None,
                Ok(text) if text.trim().is_empty() => {}
                Ok(text) => return Some(Ok((number, text.trim_end_matches(['\r', '\n']).to_owned()))),
                Err(error) => {
                    failed = true;
                    return Some(Err(error));
                }
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_numbers_and_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        std::fs::write(&path, "{}\r\n\n  \n[1]").unwrap();
        let lines: Vec<(usize, String)> = read_lines(&path).unwrap().map(Result::unwrap).collect();
        assert_eq!(lines, [(1, "{}".to_owned()), (4, "[1]".to_owned())]);
        std::fs::write(&path, "\u{feff}{\"a\": 1}\n").unwrap();
        let lines: Vec<(usize, String)> = read_lines(&path).unwrap().map(Result::unwrap).collect();
        assert_eq!(lines, [(1, "{\"a\": 1}".to_owned())]);
        std::fs::write(&path, b"{}\n\xff\n{}\n").unwrap();
        let lines: Vec<Result<(usize, String)>> = read_lines(&path).unwrap().collect();
        assert!(
            lines.len() == 2 && lines[1].as_ref().is_err_and(|error| error.to_string().contains("line 2"))
        );
    }

    #[test]
    fn what_has_no_end_is_refused() {
        assert!(read_lines(Path::new("/dev/zero")).err().unwrap().to_string().contains("regular file"));
        // A sparse file: 40 GiB in one line that take no space on the disk.
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(40 << 30).unwrap();
        let error = read_lines(file.path()).unwrap().next().unwrap().unwrap_err().to_string();
        assert!(error.contains("line 1") && error.contains("TALENT_MAX_IMAGE_MIB"), "{error}");
    }

    #[test]
    fn an_array_gives_its_elements() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        std::fs::write(&path, "\u{feff}\n[\n {\"a\":\n 1},\n {\"b\": NaN}]\n").unwrap();
        let lines: Vec<(usize, String)> = read_lines(&path).unwrap().map(Result::unwrap).collect();
        assert_eq!(lines, [(1, "{\"a\":  1}".to_owned()), (2, "{\"b\": null}".to_owned())]);
        std::fs::write(&path, "[{\"a\": 1},\n").unwrap();
        let error = read_lines(&path).err().unwrap().to_string();
        assert!(error.contains("one object a line"), "{error}");
        std::fs::write(&path, "version https://git-lfs.github.com/spec/v1\n").unwrap();
        assert!(read_lines(&path).err().unwrap().to_string().contains("git lfs pull"));
    }
}
