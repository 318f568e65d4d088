//! Files of one JSON object a line.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use crate::error::{Error, Result, io_error};
use crate::memory_rule::{VARIABLE, line_limit};
use crate::regular_file::open_regular;

/// The lines of a file that hold something, each with its number, from 1.
///
/// # Errors
/// When the file cannot be opened or is not a regular file. Each line may fail, too: it cannot be read, is not UTF-8, or is longer
/// than one file's memory allows (`TALENT_MAX_IMAGE_MIB`).
pub fn read_lines(path: &Path) -> Result<impl Iterator<Item = Result<(usize, String)>>> {
    let limit = line_limit()?;
    let mut file = BufReader::new(open_regular(path)?);
    let path = path.to_path_buf();
    let mut number = 0;
    let mut failed = false;
    Ok(std::iter::from_fn(move || {
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
    }))
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
        std::fs::write(&path, b"{}\n\xff\n{}\n").unwrap();
        let lines: Vec<Result<(usize, String)>> = read_lines(&path).unwrap().collect();
        assert!(
            lines.len() == 2 && lines[1].as_ref().is_err_and(|error| error.to_string().contains("line 2"))
        );
    }

    #[test]
    fn what_has_no_end_is_refused() {
        assert!(read_lines(Path::new("/dev/zero")).err().unwrap().to_string().contains("regular file"));
        // 40 GiB that take no room on the disk, and are one line.
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(40 << 30).unwrap();
        let error = read_lines(file.path()).unwrap().next().unwrap().unwrap_err().to_string();
        assert!(error.contains("line 1") && error.contains("TALENT_MAX_IMAGE_MIB"), "{error}");
    }
}
