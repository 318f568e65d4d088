//! Brings one file of the table to its place: from the network, or from a folder.

use std::path::Path;

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
    /// It is there, but did not come from here, and no checksum is known.
    Unverified,
    /// So many bytes of it have been downloaded.
    Part(u64),
    /// It is not there.
    Missing,
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
    /// - token: of a Hugging Face account; sent for gated items alone, to the host in the table, never to where it redirects
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
            let published = self.lock.entry(&source.to).map(|entry| entry.published);
            return match (published, &source.sha256) {
                (Some(true), _) => State::Published,
                (Some(false), _) => State::Recorded,
                (None, _) => State::Unverified,
            };
        }
        match std::fs::metadata(part_of(&self.places.path(&source.to))) {
            Ok(part) if part.len() > 0 => State::Part(part.len()),
            _ => State::Missing,
        }
    }

    /// Checks a file that is there against every checksum that is known.
    ///
    /// # Errors
    /// When it cannot be read, or is another file.
    pub fn verify(&self, source: &Source) -> Result<()> {
        let folder = self.places.path(&source.to).parent().map(Path::to_path_buf).unwrap_or_default();
        for path in self.places.results(source) {
            let whole = source.unpack.is_empty();
            let name = path.strip_prefix(&folder).unwrap_or(&path);
            let key = if whole { source.to.clone() } else { unpacked_key(source, &name.to_string_lossy()) };
            let published = source.sha256.as_deref().filter(|_| whole);
            let locked = self.lock.entry(&key).map(|entry| entry.sha256.as_str());
            let wrong = |what: String| Error::NotThisFile {
                path: path.clone(),
                what: format!("{what}; move the file away and fetch it anew"),
            };
            if whole && let Some(what) = fault(&path, source)? {
                return Err(wrong(what));
            }
            if published.is_some() || locked.is_some() {
                verdict(&sha256(&path)?, published, locked).map_err(wrong)?;
            }
        }
        Ok(())
    }

    /// Downloads a file and puts it into its place.
    ///
    /// # Errors
    /// When no source works, the disk is full, or the item's licence must be accepted first.
    pub fn fetch(&mut self, item: &Item, source: &Source) -> Result<()> {
        let mut part = Part::open(&self.places.path(&source.to))?;
        let locked = self.lock.entry(&source.to).map(|entry| entry.sha256.clone());
        let order = Order { item, source, locked: locked.as_deref(), token: self.token.as_deref() };
        let checked = order.download(&self.client, self.patience, &mut part)?;
        self.put(source, part, checked)
    }

    /// Takes a file from a folder, where it has the name that it would be downloaded under. `false` if the folder lacks it.
    ///
    /// # Errors
    /// When the file is another one, or cannot be copied.
    pub fn take(&mut self, source: &Source, folder: &Path) -> Result<bool> {
        let found = folder.join(source.file_name());
        if !found.is_file() {
            return Ok(false);
        }
        let not_this = |what| Error::NotThisFile { path: found.clone(), what };
        if let Some(what) = fault(&found, source)? {
            return Err(not_this(what));
        }
        if !source.unpack.is_empty() {
            Archive::open(&found, &source.unpack).and_then(|mut archive| archive.test()).map_err(not_this)?;
        }
        let hash = sha256(&found)?;
        let locked = self.lock.entry(&source.to).map(|entry| entry.sha256.as_str());
        verdict(&hash, source.sha256.as_deref(), locked).map_err(not_this)?;
        let mut part = Part::open(&self.places.path(&source.to))?;
        let size = std::fs::metadata(&found).map_err(Error::at(&found))?.len();
        require_space(part.path(), size)?;
        part.begin(0, Origin::default())?;
        std::fs::copy(&found, part.path()).map_err(Error::at(part.path()))?;
        let url = format!("file {}", found.display());
        self.put(source, part, Checked { sha256: hash, published: source.sha256.is_some(), url })?;
        Ok(true)
    }

    /// A checked part gets its name, or is unpacked; the lock file is written last.
    fn put(&mut self, source: &Source, part: Part, checked: Checked) -> Result<()> {
        let whole = self.places.path(&source.to);
        let size = std::fs::metadata(part.path()).map_err(Error::at(part.path()))?.len();
        let Checked { sha256: hash, published, url } = checked;
        let entry = |sha256, size| Entry { sha256, size, published, url: url.clone() };
        let mut entries = vec![(source.to.clone(), entry(hash, size))];
        if source.unpack.is_empty() {
            part.finish(&whole)?;
            return self.lock.add(entries);
        }
        let folder = whole.parent().unwrap_or(Path::new("."));
        let not_this = |what| Error::NotThisFile { path: part.path().to_path_buf(), what };
        let written = Archive::open(part.path(), &source.unpack).map_err(not_this)?.unpack(folder)?;
        for name in &source.unpack {
            if !written.contains(name) {
                errln!("{}: was there already and is kept", folder.join(name).display());
                continue;
            }
            let path = folder.join(name);
            let size = std::fs::metadata(&path).map_err(Error::at(&path))?.len();
            entries.push((unpacked_key(source, name), entry(sha256(&path)?, size)));
        }
        self.lock.add(entries)?;
        part.remove()
    }

    /// Path of the lock file, for messages.
    pub fn lock_file(&self) -> std::path::PathBuf {
        self.places.data_root.join(LOCK_FILE)
    }
}

/// Key of the lock file for what is unpacked from an archive.
fn unpacked_key(source: &Source, name: &str) -> String {
    let folder = source.to.rsplit_once('/').map_or("", |(folder, _)| folder);
    format!("{folder}/{name}")
}

/// A file with something in it.
fn is_there(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() > 0)
}
