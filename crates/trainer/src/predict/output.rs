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

/// What a call wants of its folder.
#[derive(Debug)]
pub(super) struct Wanted {
    /// What decides the predictions; those of an earlier call that was interrupted must be the same.
    pub(super) settings: Map<String, Value>,
    /// Folders of pictures that are written.
    pub(super) folders: Vec<&'static str>,
    /// Image and expression of every query.
    pub(super) queries: Vec<(String, String)>,
}

/// An opened folder.
#[derive(Debug)]
pub(super) enum Opened {
    /// It may be written to.
    Open(Box<Output>),
    /// It holds all predictions already.
    Finished(Summary),
}

/// The part of a prediction that must be that of its query.
#[derive(Deserialize)]
struct OfQuery {
    image: String,
    expression: String,
}

impl Output {
    /// Opens a folder for predictions.
    pub(super) fn open(folder: &Path, wanted: Wanted) -> Result<Opened> {
        let lock = RunLock::take(folder)?;
        let Wanted { settings, folders, queries } = wanted;
        let is_new = !folder.join(DESCRIPTION).exists();
        let done = earlier(folder, &settings)?;
        make_folders(folder, &folders, is_new)?;
        let path = folder.join(UNFINISHED);
        let finished = folder.join(FINISHED).exists() && !path.exists();
        if let Some(summary) = done.as_ref().filter(|_| finished)
            && summary.left_out.is_empty()
        {
            ensure_whole(folder, &folders, summary)?;
            return Ok(Opened::Finished(summary.clone()));
        }
        write_description(folder, &Description { settings: settings.clone(), finished: done.clone() })?;
        let unfinished = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let unfinished = unfinished.with_context(|| path.display().to_string())?;
        let folder = folder.to_path_buf();
        let mut output = Self { folder, settings, unfinished, lines: BTreeMap::new(), end: 0, _lock: lock };
        output.read_unfinished(&queries).with_context(|| path.display().to_string())?;
        if let Some(done) = done.filter(|_| output.folder.join(FINISHED).exists()) {
            // Images that were left out may be readable now.
            output.take_back(&done)?;
        }
        Ok(Opened::Open(Box::new(output)))
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

    /// Reads the lines of an earlier call. What follows the last whole line of this program about its query is cut off.
    fn read_unfinished(&mut self, queries: &[(String, String)]) -> Result<()> {
        let mut reader = BufReader::new(&self.unfinished);
        let mut line = String::new();
        loop {
            line.clear();
            let read = reader.by_ref().take(1 << 30).read_line(&mut line);
            let Ok(Unfinished { query, line: found }) = serde_json::from_str(&line) else { break };
            let found = found.get();
            let is_of_query = serde_json::from_str::<OfQuery>(found).is_ok_and(|of| {
                queries.get(query).is_some_and(|(image, text)| of.image == *image && of.expression == *text)
            });
            let start = opening(query);
            if read.is_err() || !is_of_query || line != format!("{start}{found}}}\n") {
                break;
            }
            self.lines.insert(query, (self.end + start.len() as u64, found.len()));
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
            text.push_str(&opening(*query));
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
                file.write_all(&line).with_context(|| path.display().to_string())?;
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
    let before: Description = serde_json::from_slice(&bytes).with_context(|| {
        format!("{}: it is damaged; choose another --out, or remove this folder", path.display())
    })?;
    let changed = settings.iter().filter(|(name, value)| before.settings.get(name.as_str()) != Some(value));
    let changed: Vec<&str> = changed.map(|(name, _)| name.as_str()).collect();
    ensure!(
        changed.is_empty(),
        "--out {shown}: it holds predictions made with another setting ({}); choose another folder, or remove it",
        changed.join(", ")
    );
    Ok(before.finished)
}

/// The beginning of an unfinished line.
fn opening(query: usize) -> String {
    format!("{{\"query\":{query},\"line\":")
}

/// Makes the folders of pictures. In a new output folder they must not hold anything: it would be overwritten.
fn make_folders(folder: &Path, names: &[&str], is_new: bool) -> Result<()> {
    for name in names {
        let path = folder.join(name);
        std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        // Of a call that was killed.
        whole_file::remove_unfinished(&path)?;
        let mut entries = std::fs::read_dir(&path).with_context(|| path.display().to_string())?;
        ensure!(
            !is_new || entries.next().is_none(),
            "--out {}: its folder {name} holds files that are not of this program; choose another folder",
            folder.display()
        );
    }
    Ok(())
}

/// Checks that a finished folder still holds all that it says.
fn ensure_whole(folder: &Path, names: &[&str], summary: &Summary) -> Result<()> {
    let path = folder.join(FINISHED);
    let file = File::open(&path).with_context(|| path.display().to_string())?;
    let mut found = vec![(FINISHED.to_owned(), BufReader::new(file).lines().count())];
    for name in names {
        let entries =
            std::fs::read_dir(folder.join(name)).with_context(|| folder.join(name).display().to_string())?;
        found.push(((*name).to_owned(), entries.count()));
    }
    for (name, n) in found {
        ensure!(
            n >= summary.n_predictions,
            "--out {}: {name} holds {n} of {} predictions; remove this folder, or choose another",
            folder.display(),
            summary.n_predictions
        );
    }
    Ok(())
}

fn write_description(folder: &Path, description: &Description) -> Result<()> {
    let text = serde_json::to_string_pretty(description)?;
    Ok(whole_file::write(&folder.join(DESCRIPTION), format!("{text}\n").as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(text: &str) -> Wanted {
        Wanted {
            settings: Map::from_iter([("queries".to_owned(), text.into())]),
            folders: vec!["masks"],
            queries: (0..3).map(|place| (format!("{place}.jpg"), "ü".into())).collect(),
        }
    }

    fn line(place: usize) -> (usize, String) {
        (place, format!("{{\"expression\":\"ü\",\"image\":\"{place}.jpg\"}}"))
    }

    fn open(folder: &Path) -> Output {
        match Output::open(folder, wanted("a")).unwrap() {
            Opened::Open(output) => *output,
            Opened::Finished(_) => panic!("it is not finished"),
        }
    }

    fn finish(output: Output, left_out: Vec<LeftOut>) {
        for place in 0..output.n() {
            std::fs::write(output.folder().join(format!("masks/{place}.png")), "").unwrap();
        }
        let n_predictions = output.n();
        output.finish(&Summary { n_queries: 3, n_predictions, left_out }).unwrap();
    }

    #[test]
    fn an_interrupted_folder_goes_on_and_ends_in_order() {
        let folder = tempfile::tempdir().unwrap();
        open(folder.path()).append(&[line(2), line(0)]).unwrap();
        // Killed in the middle of a line.
        let file = folder.path().join(UNFINISHED);
        let written = std::fs::read(&file).unwrap();
        std::fs::write(&file, [&written[..], b"{\"query\":1,\"line\":{\"b"].concat()).unwrap();
        let refused = Output::open(folder.path(), wanted("b")).unwrap_err().to_string();
        assert!(refused.contains("another setting (queries)"), "{refused}");
        let mut output = open(folder.path());
        assert_eq!((output.n(), output.has(2), output.has(1)), (2, true, false));
        output.append(&[line(1)]).unwrap();
        finish(output, Vec::new());
        let text = std::fs::read_to_string(folder.path().join(FINISHED)).unwrap();
        assert_eq!(text.lines().collect::<Vec<_>>(), [0, 1, 2].map(|place| line(place).1));
        assert!(matches!(Output::open(folder.path(), wanted("a")).unwrap(), Opened::Finished(_)));
        assert!(!file.exists());
        std::fs::write(folder.path().join(FINISHED), "{}\n").unwrap();
        let refused = Output::open(folder.path(), wanted("a")).unwrap_err().to_string();
        assert!(refused.contains("1 of 3 predictions"), "{refused}");
    }

    #[test]
    fn lines_that_others_have_changed_are_made_again() {
        for change in
            [("\n", "\r\n"), ("{\"query\":", "{ \"query\":"), ("query\":1", "query\":7"), ("1.jpg", "2.jpg")]
        {
            let folder = tempfile::tempdir().unwrap();
            open(folder.path()).append(&[line(1)]).unwrap();
            let file = folder.path().join(UNFINISHED);
            let text = std::fs::read_to_string(&file).unwrap();
            std::fs::write(&file, text.replacen(change.0, change.1, 1)).unwrap();
            assert_eq!(open(folder.path()).n(), 0, "{change:?}");
        }
    }

    #[test]
    fn what_was_left_out_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut output = open(folder.path());
        output.append(&[line(0), line(2)]).unwrap();
        finish(output, vec![LeftOut { image: "1.jpg".into(), why: "damaged".into(), queries: vec![1] }]);
        // Opened twice, as when the second call is killed at once.
        drop(open(folder.path()));
        let mut output = open(folder.path());
        assert_eq!([0, 1, 2].map(|query| output.has(query)), [true, false, true]);
        output.append(&[line(1)]).unwrap();
        finish(output, Vec::new());
        let text = std::fs::read_to_string(folder.path().join(FINISHED)).unwrap();
        assert_eq!(text.lines().collect::<Vec<_>>(), [0, 1, 2].map(|place| line(place).1));
    }

    #[test]
    fn predictions_of_others_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FINISHED), "{}\n").unwrap();
        let refused = || Output::open(folder.path(), wanted("a")).unwrap_err().to_string();
        assert!(refused().contains("another folder"));
        std::fs::remove_file(folder.path().join(FINISHED)).unwrap();
        std::fs::create_dir_all(folder.path().join("masks")).unwrap();
        std::fs::write(folder.path().join("masks/000000.png"), "mine").unwrap();
        assert!(refused().contains("its folder masks"), "{}", refused());
    }
}
