//! Brings one file of the table to its place: from the network, or from a folder.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use cli_kit::errln;

use crate::check::{fault, sha256};
use crate::client::Client;
use crate::disk::require_space;
use crate::download::{Checked, Order, Patience, verdict};
use crate::error::{Error, Result};
use crate::lock::{Entry, LOCK_FILE, Lock};
use crate::part::{Origin, Part, part_of};
use crate::table::{Item, Places, Source};
use crate::unpack::Archive;

/// Whether a file is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is there, with the checksum that its source publishes.
    Published,
    /// It is there, with the checksum of the first download; the source publishes none.
    Recorded,
    /// It is there, but has another size than it had when it was fetched.
    Damaged,
    /// It is there, but did not come from here, and no checksum is known.
    Unverified,
    /// The same lies at another place where it is looked for.
    Elsewhere,
    /// So many bytes of it have been downloaded.
    Part(u64),
    /// It is not there.
    Missing,
}

impl State {
    /// Whether the file has to be fetched.
    pub fn is_missing(self) -> bool {
        matches!(self, Self::Missing | Self::Part(_))
    }
}

/// Fetches files into their places.
pub struct Fetcher {
    client: Client,
    places: Places,
    lock: Lock,
    patience: Patience,
    token: Option<String>,
}

impl Fetcher {
    /// Reads the lock file of the data root, and proxies and certificates from the environment.
    ///
    /// - token: of a Hugging Face account; sent for gated items alone, to the host on which the licence is accepted, never to where it redirects
    ///
    /// # Errors
    /// When the lock file or a file of certificates cannot be read.
    pub fn new(places: Places, patience: Patience, token: Option<String>) -> Result<Self> {
        let lock = Lock::read(&places.data_root)?;
        Ok(Self { client: Client::new()?, places, lock, patience, token })
    }

    /// Whether a file is there, by its size and what the lock file says; its bytes are not read.
    pub fn state(&self, source: &Source) -> State {
        let results = self.places.results(source);
        if results.iter().all(|path| is_there(path)) {
            return self.known(source, &results);
        }
        if source.or_at.iter().any(|place| serves(&self.places.path(place), source)) {
            return State::Elsewhere;
        }
        match std::fs::metadata(part_of(&self.places.path(&source.to))) {
            Ok(part) if part.is_file() && part.len() > 0 => State::Part(part.len()),
            _ => State::Missing,
        }
    }

    /// What is known about files that are there.
    fn known(&self, source: &Source, results: &[PathBuf]) -> State {
        let sized = |path: &PathBuf, entry: &Entry| {
            std::fs::metadata(path).is_ok_and(|found| found.len() == entry.size)
        };
        let entries: Vec<_> = results.iter().map(|path| self.lock.entry(&self.key(source, path))).collect();
        if entries.iter().zip(results).any(|(entry, path)| entry.is_some_and(|entry| !sized(path, entry))) {
            return State::Damaged;
        }
        if entries.iter().any(Option::is_none) {
            return State::Unverified;
        }
        let all = entries.iter().flatten().all(|entry| entry.published);
        if all { State::Published } else { State::Recorded }
    }

    /// Key of the lock file for a file that a source leaves.
    fn key(&self, source: &Source, path: &Path) -> String {
        let folder = self.places.path(&source.to).parent().map(Path::to_path_buf).unwrap_or_default();
        let name = path.strip_prefix(&folder).unwrap_or(path);
        if source.unpack.is_empty() {
            source.to.clone()
        } else {
            unpacked_key(source, &name.to_string_lossy())
        }
    }

    /// Checks a file that is there against every checksum that is known. Without one, the lock file gets what the file has now. What lies
    /// elsewhere is the user's own, and not checked.
    ///
    /// # Errors
    /// When it cannot be read, or is another file.
    pub fn verify(&mut self, source: &Source) -> Result<()> {
        if self.state(source) == State::Elsewhere {
            return Ok(());
        }
        let mut noted = Vec::new();
        for path in self.places.results(source) {
            let whole = source.unpack.is_empty();
            let key = self.key(source, &path);
            let published = source.sha256.as_deref().filter(|_| whole);
            let locked = self.lock.entry(&key).map(|entry| entry.sha256.as_str());
            let wrong = |what: String| Error::NotThisFile {
                path: path.clone(),
                what: format!("{what}. If this file is the wrong one, move it away and fetch it anew"),
            };
            if whole && let Some(what) = fault(&path, source)? {
                return Err(wrong(what));
            }
            let found = sha256(&path)?;
            verdict(&found, published, locked).map_err(wrong)?;
            if locked.is_none() {
                let size = std::fs::metadata(&path).map_err(Error::at(&path))?.len();
                let url = format!("was at {} already", path.display());
                noted.push((key, Entry { sha256: found, size, published: published.is_some(), url }));
            }
        }
        Part::tidy(&self.places.path(&source.to));
        if !noted.is_empty()
            && let Err(error) = self.lock.add(noted)
        {
            // Folders that a whole lab shares cannot be written to.
            errln!("note: the checksum could not be recorded: {error}");
        }
        Ok(())
    }

    /// Downloads a file and puts it into its place.
    ///
    /// # Errors
    /// When no source works, the disk is full, or the item's licence must be accepted first.
    pub fn fetch(&mut self, item: &Item, source: &Source) -> Result<()> {
        // What could not be recorded must not be downloaded.
        self.lock.require_writable()?;
        let mut part = Part::open(&self.places.path(&source.to))?;
        let locked = self.lock.entry(&source.to).map(|entry| entry.sha256.clone());
        let (locked, token) = (locked.as_deref(), self.token.as_deref());
        let mut order = Order { item, source, locked, token, patience: self.patience, named: None };
        match order.download(&self.client, &mut part) {
            Ok(checked) => self.put(source, part, checked),
            Err(error) => {
                part.leave()?;
                Err(error)
            }
        }
    }

    /// Takes a file from a folder: from the place that it would have below the data root or the weights, or, if no other file has its name,
    /// from the folder itself. `false` if the folder lacks it.
    ///
    /// - has_own_name: whether no other file of the table has the name
    ///
    /// # Errors
    /// When the file is another one, or cannot be copied.
    pub fn take(&mut self, source: &Source, folder: &Path, has_own_name: bool) -> Result<bool> {
        let mut places = vec![folder.join(source.below_root())];
        places.extend(has_own_name.then(|| folder.join(source.file_name())));
        let Some(found) = places.into_iter().find(|path| path.is_file()) else { return Ok(false) };
        let not_this = |what| Error::NotThisFile { path: found.clone(), what };
        if let Some(what) = fault(&found, source)? {
            return Err(not_this(what));
        }
        let hash = sha256(&found)?;
        let locked = self.lock.entry(&source.to).map(|entry| entry.sha256.as_str());
        verdict(&hash, source.sha256.as_deref(), locked).map_err(not_this)?;
        self.lock.require_writable()?;
        let mut part = Part::open(&self.places.path(&source.to))?;
        let size = std::fs::metadata(&found).map_err(Error::at(&found))?.len();
        require_space(part.path(), size)?;
        part.begin(0, Origin::default())?;
        copy(&found, &mut part)?;
        let url = format!("file {}", found.display());
        self.put(source, part, Checked { sha256: hash, published: source.sha256.is_some(), url })?;
        Ok(true)
    }

    /// A checked part gets its name, or is unpacked, after the lock file was written.
    fn put(&mut self, source: &Source, part: Part, checked: Checked) -> Result<()> {
        let whole = self.places.path(&source.to);
        let size = std::fs::metadata(part.path()).map_err(Error::at(part.path()))?.len();
        let Checked { sha256: hash, published, url } = checked;
        let entry = |sha256, size| Entry { sha256, size, published, url: url.clone() };
        let mut entries = vec![(source.to.clone(), entry(hash, size))];
        if source.unpack.is_empty() {
            // In this order: a process that is killed in between leaves no file without a checksum.
            self.lock.add(entries)?;
            return part.finish(&whole);
        }
        let folder = whole.parent().unwrap_or(Path::new("."));
        let not_this = |what| Error::NotThisFile { path: part.path().to_path_buf(), what };
        let staging = folder.join(format!(".{}-unpacking", source.file_name()));
        let lock = &mut self.lock;
        Archive::open(part.path(), source).map_err(not_this)?.unpack(folder, &staging, |staged| {
            for (name, sha256, size) in staged {
                entries.push((unpacked_key(source, &name), entry(sha256, size)));
            }
            lock.add(entries)
        })?;
        part.remove()
    }

    /// Path of the lock file, for messages.
    pub fn lock_file(&self) -> PathBuf {
        self.places.data_root.join(LOCK_FILE)
    }
}

/// Copies a file into a part.
fn copy(from: &Path, part: &mut Part) -> Result<()> {
    let mut file = File::open(from).map_err(Error::at(from))?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut buffer).map_err(Error::at(from))?;
        if n == 0 {
            return part.take_note();
        }
        part.append(&buffer[..n])?;
    }
}

/// Key of the lock file for what is unpacked from an archive.
fn unpacked_key(source: &Source, name: &str) -> String {
    let folder = source.to.rsplit_once('/').map_or("", |(folder, _)| folder);
    format!("{folder}/{name}")
}

/// A folder with something in it, or a file of the right size.
fn serves(path: &Path, source: &Source) -> bool {
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => {
            std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some())
        }
        Ok(found) => found.is_file() && found.len() > 0 && source.size.is_none_or(|size| size == found.len()),
        Err(_) => false,
    }
}

/// A file with something in it.
fn is_there(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() > 0)
}
