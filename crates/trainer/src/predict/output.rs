//! The folder of many predictions. Lines are appended to `predictions.unfinished.jsonl`, so that an interrupted command goes on where
//! it stopped; at the end they are written to `predictions.jsonl` in the order of the queries.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::run_dir::RunLock;

/// An open output folder.
#[derive(Debug)]
pub(super) struct Output {
    folder: PathBuf,
    /// What decides the predictions, see [`Output::open`].
    settings: Map<String, Value>,
    unfinished: File,
    /// Start and length of each finished query's line in the file.
    lines: BTreeMap<usize, (u64, usize)>,
    end: u64,
    _lock: RunLock,
}

const FINISHED: &str = "predictions.jsonl";
const UNFINISHED: &str = "predictions.unfinished.jsonl";
const DESCRIPTION: &str = "predict.json";

/// What `predict.json` says.
#[derive(Debug, Serialize, Deserialize)]
struct Description {
    /// What decides the predictions.
    settings: Map<String, Value>,
    /// Once all is done.
    finished: Option<Summary>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Summary {
    pub(super) n_queries: usize,
    pub(super) n_predictions: usize,
    pub(super) left_out: Vec<LeftOut>,
}

/// An image that was left out, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LeftOut {
    pub(super) image: String,
    pub(super) why: String,
    /// Places of the queries about it, from 0.
    pub(super) queries: Vec<usize>,
}

/// A line of the unfinished file.
#[derive(Deserialize)]
struct Unfinished {
    query: usize,
    line: Box<RawValue>,
}

impl Output {
    /// Opens a folder for predictions. Returns `None` if it holds all of them already.
    ///
    /// - settings: what decides the predictions; those of an earlier call that was interrupted must be the same
    pub(super) fn open(folder: &Path, settings: Map<String, Value>) -> Result<Option<Self>> {
        let lock = RunLock::take(folder)?;
        let done = earlier(folder, &settings)?;
        let path = folder.join(UNFINISHED);
        let finished = folder.join(FINISHED).exists() && !path.exists();
        if let Some(Summary { left_out, .. }) = done.as_ref().filter(|_| finished)
            && left_out.is_empty()
        {
            return Ok(None);
        }
        write_description(folder, &Description { settings: settings.clone(), finished: done.clone() })?;
        let unfinished = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let unfinished = unfinished.with_context(|| path.display().to_string())?;
        let folder = folder.to_path_buf();
        let mut output = Self { folder, settings, unfinished, lines: BTreeMap::new(), end: 0, _lock: lock };
        output.read_unfinished().with_context(|| path.display().to_string())?;
        if let Some(done) = done.filter(|_| output.folder.join(FINISHED).exists()) {
            // Images that were left out may be readable now.
            output.take_back(&done)?;
        }
        Ok(Some(output))
    }

    /// Takes the predictions of a finished call back into the unfinished file.
    fn take_back(&mut self, done: &Summary) -> Result<()> {
        let path = self.folder.join(FINISHED);
        let left_out: BTreeSet<usize> =
            done.left_out.iter().flat_map(|one| one.queries.iter().copied()).collect();
        let places = (0..done.n_queries).filter(|place| !left_out.contains(place));
        let lines: Vec<String> = BufReader::new(File::open(&path)?)
            .lines()
            .collect::<Result<_, _>>()
            .with_context(|| path.display().to_string())?;
        ensure!(
            lines.len() == done.n_predictions && done.n_predictions + left_out.len() == done.n_queries,
            "{}: it has {} lines and {DESCRIPTION} says {}; choose another --out, or remove this folder",
            path.display(),
            lines.len(),
            done.n_predictions
        );
        self.append(&places.zip(lines).filter(|(place, _)| !self.has(*place)).collect::<Vec<_>>())
    }

    /// Reads the lines of an earlier call. What follows the last whole line is cut off.
    fn read_unfinished(&mut self) -> Result<()> {
        let mut reader = BufReader::new(&self.unfinished);
        let mut line = String::new();
        loop {
            line.clear();
            let read = reader.by_ref().take(1 << 30).read_line(&mut line);
            let Ok(parsed) = serde_json::from_str::<Unfinished>(&line) else { break };
            if read.is_err() || !line.ends_with('\n') {
                break;
            }
            let length = parsed.line.get().len();
            // The line is the last field: `...}` and a line break follow it.
            let start = self.end + line.len() as u64 - 2 - length as u64;
            self.lines.insert(parsed.query, (start, length));
            self.end += line.len() as u64;
        }
        drop(reader);
        self.unfinished.set_len(self.end)?;
        Ok(())
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn has(&self, query: usize) -> bool {
        self.lines.contains_key(&query)
    }

    /// Number of predictions that are there.
    pub(super) fn n(&self) -> usize {
        self.lines.len()
    }

    /// Appends predictions, each a query's place and its line.
    pub(super) fn append(&mut self, predictions: &[(usize, String)]) -> Result<()> {
        let mut text = String::new();
        let mut added = Vec::with_capacity(predictions.len());
        for (query, line) in predictions {
            text.push_str(&format!("{{\"query\":{query},\"line\":"));
            added.push((*query, (self.end + text.len() as u64, line.len())));
            text.push_str(line);
            text.push_str("}\n");
        }
        self.unfinished.seek(SeekFrom::Start(self.end))?;
        let written = self.unfinished.write_all(text.as_bytes());
        written.with_context(|| self.folder.join(UNFINISHED).display().to_string())?;
        self.end += text.len() as u64;
        self.lines.extend(added);
        Ok(())
    }

    /// Writes `predictions.jsonl`, and what was done to `predict.json`.
    pub(super) fn finish(mut self, summary: &Summary) -> Result<()> {
        let path = self.folder.join(FINISHED);
        let unfinished = self.folder.join(UNFINISHED);
        whole_file::write_with(&path, |file| -> Result<(), anyhow::Error> {
            let mut line = Vec::new();
            for &(start, length) in self.lines.values() {
                line.resize(length, 0);
                self.unfinished.seek(SeekFrom::Start(start))?;
                self.unfinished.read_exact(&mut line).with_context(|| unfinished.display().to_string())?;
                line.push(b'\n');
                file.write_all(&line)?;
            }
            Ok(())
        })?;
        let description = Description { settings: self.settings, finished: Some(summary.clone()) };
        write_description(&self.folder, &description)?;
        std::fs::remove_file(&unfinished).with_context(|| unfinished.display().to_string())
    }
}

/// What an earlier call with the same settings has finished, if there was one.
fn earlier(folder: &Path, settings: &Map<String, Value>) -> Result<Option<Summary>> {
    let (shown, path) = (folder.display(), folder.join(DESCRIPTION));
    let Ok(bytes) = std::fs::read(&path) else {
        let holds_some = [FINISHED, UNFINISHED].iter().any(|name| folder.join(name).exists());
        ensure!(
            !holds_some,
            "--out {shown}: it holds predictions, and no {DESCRIPTION} says of what; choose another folder"
        );
        return Ok(None);
    };
    let before: Description = serde_json::from_slice(&bytes).with_context(|| path.display().to_string())?;
    let changed = settings.iter().filter(|(name, value)| before.settings.get(name.as_str()) != Some(value));
    let changed: Vec<&str> = changed.map(|(name, _)| name.as_str()).collect();
    ensure!(
        changed.is_empty(),
        "--out {shown}: it holds predictions made with another setting ({}); choose another folder, or remove it",
        changed.join(", ")
    );
    Ok(before.finished)
}

fn write_description(folder: &Path, description: &Description) -> Result<()> {
    let text = serde_json::to_string_pretty(description)?;
    Ok(whole_file::write(&folder.join(DESCRIPTION), format!("{text}\n").as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Map<String, Value> {
        Map::from_iter([("queries".to_owned(), text.into())])
    }

    #[test]
    fn an_interrupted_folder_goes_on_and_ends_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let open = |text: &str| Output::open(folder.path(), settings(text));
        let mut output = open("a").unwrap().unwrap();
        output.append(&[(2, "{\"c\":2}".into()), (0, "{\"ü\":\"\"}".into())]).unwrap();
        drop(output);
        // Killed in the middle of a line.
        let file = folder.path().join(UNFINISHED);
        let mut bytes = std::fs::read(&file).unwrap();
        bytes.extend(b"{\"query\":1,\"line\":{\"b");
        std::fs::write(&file, bytes).unwrap();
        assert!(open("b").unwrap_err().to_string().contains("another setting (queries)"));
        let mut output = open("a").unwrap().unwrap();
        assert_eq!((output.n(), output.has(2), output.has(1)), (2, true, false));
        output.append(&[(1, "{}".into())]).unwrap();
        output.finish(&Summary { n_queries: 3, n_predictions: 3, left_out: Vec::new() }).unwrap();
        let text = std::fs::read_to_string(folder.path().join(FINISHED)).unwrap();
        assert_eq!(text, "{\"ü\":\"\"}\n{}\n{\"c\":2}\n");
        assert!(open("a").unwrap().is_none());
        assert!(!file.exists());
    }

    #[test]
    fn what_was_left_out_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Output::open(folder.path(), settings("a")).unwrap();
        let mut output = open().unwrap();
        output.append(&[(0, "{}".into()), (2, "{\"c\":2}".into())]).unwrap();
        let left_out = vec![LeftOut { image: "b.jpg".into(), why: "damaged".into(), queries: vec![1] }];
        output.finish(&Summary { n_queries: 3, n_predictions: 2, left_out }).unwrap();
        // Opened twice, as when the second call is killed at once.
        drop(open().unwrap());
        let mut output = open().unwrap();
        assert_eq!([0, 1, 2].map(|query| output.has(query)), [true, false, true]);
        output.append(&[(1, "{\"b\":1}".into())]).unwrap();
        output.finish(&Summary { n_queries: 3, n_predictions: 3, left_out: Vec::new() }).unwrap();
        let text = std::fs::read_to_string(folder.path().join(FINISHED)).unwrap();
        assert_eq!(text, "{}\n{\"b\":1}\n{\"c\":2}\n");
        assert!(open().is_none());
    }

    #[test]
    fn predictions_of_others_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FINISHED), "{}\n").unwrap();
        assert!(
            Output::open(folder.path(), settings("a")).unwrap_err().to_string().contains("another folder")
        );
    }
}
