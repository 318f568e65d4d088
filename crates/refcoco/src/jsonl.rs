//! Reads files with one JSON object per line (JSONL).

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::Path;

use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::error::{Error, Result, io_error, json_problem};
use crate::memory_rule::{VARIABLE, line_limit};
use crate::reader::json_text;
use crate::regular_file::open_regular;

/// Lines of a file, or elements of a JSON array, each with its number, counted from 1.
pub type Lines = Box<dyn Iterator<Item = Result<(usize, String)>>>;

/// Iterates over the lines of a file that are not blank, each with its line number, counted from 1. A byte order mark at the
/// start is left out, and `NaN` and `Infinity`, which Python writes, become `null`.
///
/// Two other forms of the same are read: a file that is one JSON array gives its elements, each with its number in the array;
/// objects over several lines each come with the number of their first line.
///
/// # Errors
/// When the file cannot be opened or is not a regular file. An item is an error when its line cannot be read, is not UTF-8, or
/// is longer than the memory limit for one file allows (`TALENT_MAX_IMAGE_MIB`); the iterator then ends.
pub fn read_lines(path: &Path) -> Result<Lines> {
    let limit = line_limit()?;
    if let Some(what) =
        file_kind::mistaken_text_file(path).filter(|_| path.metadata().is_ok_and(|found| found.len() > 0))
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
    let mut first = Vec::new();
    file.by_ref().take(limit + 1).read_until(b'\n', &mut first).map_err(io_error(path))?;
    // An object that its first line does not end.
    let goes_on = first.len() <= LONGEST_FIRST_LINE
        && first.trim_ascii_start().starts_with(b"{")
        && serde_json::from_slice::<IgnoredAny>(&json_text(&first)).is_err_and(|error| error.is_eof());
    if !goes_on && file.fill_buf().map_err(io_error(path))?.trim_ascii().is_empty() {
        // A record may hold a list among other things.
        refuse_wrapped_list(path, &String::from_utf8_lossy(&first), 1)?;
    }
    let file = Cursor::new(first).chain(file);
    match goes_on {
        true => objects(path, file, limit),
        false => Ok(Box::new(lines(path, file, limit))),
    }
}

/// Bytes of the longest first line that is looked at for an object over several lines. Programs that write these write short
/// lines.
const LONGEST_FIRST_LINE: usize = 1 << 16;

/// A whole file, if it is not longer than the limit.
fn whole_text(path: &Path, file: impl Read, limit: u64, record: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(io_error(path))?;
    if bytes.len() as u64 > limit {
        let what = format!("longer than {} MiB; write one object a line (JSONL)", limit >> 20);
        return Err(Error::Record { path: path.to_path_buf(), record: record.to_owned(), what });
    }
    Ok(json_text(&bytes))
}

/// The objects of a file that has them over several lines.
fn objects(path: &Path, file: impl Read, limit: u64) -> Result<Lines> {
    let text = whole_text(path, file, limit, "objects over several lines")?;
    let mut found = Vec::new();
    let (mut number, mut counted) = (1, 0);
    let mut objects = serde_json::Deserializer::from_slice(&text).into_iter::<Box<RawValue>>();
    loop {
        let at = objects.byte_offset();
        let blank = text[at..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        number += memchr::memchr_iter(b'\n', &text[counted..at + blank]).count();
        counted = at + blank;
        match objects.next() {
            None => break,
            Some(Ok(object)) => found.push(Ok((number, object.get().replace(['\n', '\r'], " ")))),
            Some(Err(error)) => {
                let record = format!("the object that begins in line {number}");
                return Err(Error::Record { path: path.to_path_buf(), record, what: json_problem(&error) });
            }
        }
    }
    if let [Ok((_, only))] = &found[..] {
        refuse_wrapped_list(path, only, usize::MAX)?;
    }
    Ok(Box::new(found.into_iter()))
}

/// Refuses the only object of a file if it holds the list of objects that is expected in its place.
///
/// - most_keys: an object with more keys is left alone
fn refuse_wrapped_list(path: &Path, only: &str, most_keys: usize) -> Result<()> {
    let Some(list) = list_inside(only, most_keys) else { return Ok(()) };
    let what = format!(
        "the file is one object that holds the list `{list}`: write that list alone, or one object a line"
    );
    Err(Error::Record { path: path.to_path_buf(), record: "line 1".into(), what })
}

/// Key of the first list of objects in an object. The list stays text: it may be most of a large file.
fn list_inside(object: &str, most_keys: usize) -> Option<String> {
    let fields: BTreeMap<String, &RawValue> = serde_json::from_str(object).ok()?;
    if fields.len() > most_keys {
        return None;
    }
    let is_list = |value: &RawValue| {
        value.get().strip_prefix('[').is_some_and(|list| list.trim_ascii_start().starts_with('{'))
    };
    let may_be_list = |key: &str| ["segmentation", "mask"].contains(&key);
    fields.into_iter().find(|(key, value)| !may_be_list(key) && is_list(value)).map(|(key, _)| key)
}

/// The elements of a file that is one JSON array.
fn elements(path: &Path, file: impl Read, limit: u64) -> Result<Lines> {
    let fail =
        |what: String| Error::Record { path: path.to_path_buf(), record: "the JSON array".into(), what };
    let text = whole_text(path, file, limit, "the JSON array")?;
    let read: Result<Vec<Box<RawValue>>, _> = serde_json::from_slice(&text);
    let items = read.map_err(|error| {
        fail(format!("{}; one object a line (JSONL) is expected here", json_problem(&error)))
    })?;
    let items = items.into_iter().enumerate();
    Ok(Box::new(items.map(|(index, item)| Ok((index + 1, item.get().replace('\n', " "))))))
}

fn lines<R: BufRead>(
    path: &Path,
    mut file: R,
    limit: u64,
) -> impl Iterator<Item = Result<(usize, String)>> + use<R> {
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
                String::from_utf8(std::mem::take(&mut line)).map_err(|error| {
                    let at = error.utf8_error().valid_up_to() + 1;
                    fail(format!("it is not UTF-8 from byte {at} on: save the file as UTF-8"))
                })
            });
            match text {
                Ok(text) if text.is_empty() => return None,
                Ok(text) if text.trim().is_empty() => {}
                Ok(text) => return Some(Ok((number, without_nan(text.trim_end_matches(['\r', '\n']))))),
                Err(error) => {
                    failed = true;
                    return Some(Err(error));
                }
            }
        }
        None
    })
}

/// A line of JSON with `null` in place of NaN and infinities.
fn without_nan(line: &str) -> String {
    let may_have = |word: &str| memchr::memmem::find(line.as_bytes(), word.as_bytes()).is_some();
    match may_have("NaN") || may_have("Infinity") {
        true => String::from_utf8_lossy(&json_text(line.as_bytes())).into_owned(),
        false => line.to_owned(),
    }
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
        let error = lines[1].as_ref().unwrap_err().to_string();
        assert!(lines.len() == 2 && error.contains("line 2: it is not UTF-8"), "{error}");
    }

    #[test]
    fn what_has_no_end_is_refused() {
        assert!(read_lines(Path::new("/dev/zero")).err().unwrap().to_string().contains("regular file"));
        // A sparse file: 40 GiB in one line that take no space on the disk.
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "x").unwrap();
        file.as_file().set_len(40 << 30).unwrap();
        let error = read_lines(file.path()).unwrap().next().unwrap().unwrap_err().to_string();
        assert!(error.contains("line 1") && error.contains("TALENT_MAX_IMAGE_MIB"), "{error}");
    }

    fn read(text: &str) -> Result<Vec<(usize, String)>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read_lines(file.path())?.collect()
    }

    #[test]
    fn objects_may_go_over_several_lines() {
        let found = read("\u{feff}{\n  \"a\": NaN\n}\n\n{\n \"b\": 2}\n{}").unwrap();
        assert_eq!(found[0], (1, "{   \"a\": null }".to_owned()));
        assert_eq!((found[1].0, found[2].0, found.len()), (5, 7, 3));
        let error = read("{\n\"refs\": [{\"a\": 1}]\n}").unwrap_err().to_string();
        assert!(error.contains("`refs`") && error.contains("one object a line"), "{error}");
        let error = read("{\"predictions\": [{\"a\": 1}]}\n").unwrap_err().to_string();
        assert!(error.contains("`predictions`"), "{error}");
        assert_eq!(read("{\"mask\": [{\"size\": [1, 1]}]}\n").unwrap().len(), 1);
        assert_eq!(read("{\"a\": [{}]}\n{\"a\": [{}]}\n").unwrap().len(), 2);
        assert_eq!(read("{\"a\": [{}], \"b\": 1}\n").unwrap().len(), 1);
        let error = read("{\n\"a\": 1}\n{\n\"b\"\n").unwrap_err().to_string();
        assert!(error.contains("line 3"), "{error}");
    }

    #[test]
    fn numbers_that_json_lacks_become_null() {
        let found = read("{\"a\": NaN, \"b\": \"NaN\"}\n{\"a\": -Infinity}\n").unwrap();
        assert_eq!(found[0].1, "{\"a\": null, \"b\": \"NaN\"}");
        assert_eq!(found[1].1, "{\"a\": null}");
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
