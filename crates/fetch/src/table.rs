//! The table of sources: which files an item consists of, and where they come from.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use url::Url;

use crate::error::{Error, Result};
use crate::lock::LOCK_FILE;

/// The table of sources that is shipped.
const SHIPPED: &str = include_str!("../sources.toml");

/// All items, and what the shipped configs need.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// What can be fetched.
    #[serde(default, rename = "item")]
    pub items: Vec<Item>,
    /// What shipped configs read, by name of the config.
    #[serde(default)]
    pub configs: BTreeMap<String, Needs>,
}

/// What a config reads.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Needs {
    /// Data sets, by name.
    pub datasets: Vec<String>,
    /// Encoder files or folders, below `weights/`.
    pub weights: Vec<String>,
}

/// One thing to fetch, by name.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// Name on the command line.
    pub name: String,
    /// What it is.
    pub about: String,
    /// Licence, in one line.
    pub licence: String,
    /// Address of the licence.
    pub licence_url: String,
    /// Data sets that need it.
    #[serde(default)]
    pub datasets: Vec<String>,
    /// Page on which the licence must be accepted before a download, if it must.
    pub gated: Option<String>,
    /// Its files.
    #[serde(rename = "file")]
    pub files: Vec<Source>,
}

/// One file and its sources.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Place, below `data/` or `weights/`.
    pub to: String,
    /// If the file is a zip archive that is to be unpacked: the files to keep, relative to the archive's folder.
    #[serde(default)]
    pub unpack: Vec<String>,
    /// Those of `unpack` that the archive may lack.
    #[serde(default)]
    pub optional: Vec<String>,
    /// Further places at which the same may lie, as a file or folder.
    #[serde(default, rename = "or")]
    pub or_at: Vec<String>,
    /// Addresses in the order in which they are tried.
    pub urls: Vec<String>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Largest acceptable size in bytes, if the size is not known.
    pub at_most: Option<u64>,
    /// SHA-256 as 64 hexadecimal digits, as the source has published it.
    pub sha256: Option<String>,
}

impl Item {
    /// Whether an address is of the host on which the licence is accepted, which alone may have the token.
    pub(crate) fn is_gated_at(&self, url: &Url) -> bool {
        let page = self.gated.as_deref().and_then(|page| Url::parse(page).ok());
        page.is_some_and(|page| page.origin() == url.origin())
    }
}

impl Source {
    /// The largest size that is accepted, in bytes.
    pub fn cap(&self) -> u64 {
        self.size.or(self.at_most).unwrap_or(0)
    }

    /// The place below its root.
    pub fn below_root(&self) -> &str {
        self.to.split_once('/').map_or(&self.to, |(_, rest)| rest)
    }

    /// The name under which `--from` takes the file: files of a folder of weights keep the folder's name.
    pub fn from_name(&self) -> &str {
        if self.to.starts_with("weights/") { self.below_root() } else { self.file_name() }
    }

    /// The file's name without folders.
    pub fn file_name(&self) -> &str {
        self.to.rsplit('/').next().unwrap_or(&self.to)
    }
}

/// The folders into which files are put.
#[derive(Debug, Clone)]
pub struct Places {
    /// In place of `data/`.
    pub data_root: PathBuf,
    /// In place of `weights/`.
    pub weights: PathBuf,
}

impl Places {
    /// Path of a place of the table.
    pub fn path(&self, to: &str) -> PathBuf {
        match to.split_once('/') {
            Some(("weights", rest)) => self.weights.join(rest),
            Some((_, rest)) => self.data_root.join(rest),
            None => self.data_root.join(to),
        }
    }

    /// Paths of the files that a source leaves: itself, or what is unpacked from it, optional files left out.
    pub fn results(&self, source: &Source) -> Vec<PathBuf> {
        if source.unpack.is_empty() {
            return vec![self.path(&source.to)];
        }
        let folder = self.path(&source.to).parent().map(Path::to_path_buf).unwrap_or_default();
        let needed = source.unpack.iter().filter(|name| !source.optional.contains(name));
        needed.map(|name| folder.join(name)).collect()
    }
}

impl Table {
    /// The shipped table.
    ///
    /// # Errors
    /// Never, as the tests show.
    pub fn shipped() -> Result<Self> {
        Self::parse(SHIPPED, Path::new("sources.toml"))
    }

    /// Reads a table.
    ///
    /// # Errors
    /// When the file cannot be read, is no such table, or names places outside of the two folders, addresses without https, or sizes that
    /// are missing.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::at(path))?;
        Self::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self> {
        let wrong = |what: String| Error::Table { path: path.to_path_buf(), what };
        let table: Self = toml::from_str(text).map_err(|error| wrong(error.to_string()))?;
        if let Some(twice) = first_twice(table.items.iter().flat_map(|item| &item.files).map(|file| &file.to))
        {
            return Err(wrong(format!("two files go to `{twice}`")));
        }
        for (place, item) in table.items.iter().enumerate() {
            let at = |what: String| wrong(format!("item `{}`: {what}", item.name));
            if table.items[..place].iter().any(|other| other.name == item.name) {
                return Err(at("there are two of this name".into()));
            }
            for source in &item.files {
                check_source(source).map_err(|what| at(format!("file `{}`: {what}", source.to)))?;
            }
        }
        Ok(table)
    }

    /// The item of a name.
    ///
    /// # Errors
    /// When there is none; the error names the nearest.
    pub fn item(&self, name: &str) -> Result<&Item> {
        self.items.iter().find(|item| item.name == name).ok_or_else(|| {
            let names = || self.items.iter().map(|item| item.name.as_str());
            Error::NoSuchItem { name: name.to_owned(), hint: hint(name, names()) }
        })
    }
}

/// The nearest of some names, and all of them, as the end of a sentence.
pub(crate) fn hint<'a>(name: &str, names: impl Iterator<Item = &'a str> + Clone) -> String {
    let near =
        names.clone().max_by(|a, b| strsim::jaro_winkler(name, a).total_cmp(&strsim::jaro_winkler(name, b)));
    let near = near.filter(|near| strsim::jaro_winkler(name, near) > 0.8);
    let all = names.collect::<Vec<_>>().join(", ");
    near.map_or_else(|| format!("there are {all}"), |near| format!("did you mean `{near}`? There are {all}"))
}

fn check_source(source: &Source) -> std::result::Result<(), String> {
    let inside = |path: &str| {
        let parts = || Path::new(path).components();
        // Written in one way only, so that no two names mean one file.
        let plain = parts().collect::<PathBuf>();
        plain.as_os_str() == path
            && parts().count() > 0
            && parts().all(|part| matches!(part, Component::Normal(_)))
    };
    let root = source.to.split('/').next().unwrap_or_default();
    if !matches!(root, "data" | "weights") || !inside(&source.to) || !source.to.contains('/') {
        return Err("`to` must be below `data/` or `weights/`".into());
    }
    if let Some(outside) = source.unpack.iter().chain(&source.or_at).find(|name| !inside(name)) {
        return Err(format!("`{outside}` leaves the folder"));
    }
    if let Some(other) = source.optional.iter().find(|name| !source.unpack.contains(name)) {
        return Err(format!("`optional` names `{other}`, which `unpack` lacks"));
    }
    let is_own = |name: &str| name == LOCK_FILE || name.ends_with(".part") || name.ends_with(".part.toml");
    if is_own(source.file_name()) || source.unpack.iter().any(|name| is_own(name)) {
        return Err("`to` and `unpack` must not name a file of this program's own".into());
    }
    if let Some(twice) = first_twice(source.unpack.iter()) {
        return Err(format!("`unpack` names `{twice}` twice"));
    }
    if source.cap() == 0 {
        return Err("`size` or `at_most` must be given".into());
    }
    if source.sha256.as_ref().is_some_and(|hash| !is_sha256(hash)) {
        return Err("`sha256` must be 64 hexadecimal digits in lower case".into());
    }
    if source.urls.is_empty() {
        return Err("`urls` is empty".into());
    }
    for url in &source.urls {
        let parsed = Url::parse(url).map_err(|error| format!("{url}: {error}"))?;
        if !is_allowed(&parsed) {
            return Err(format!("{url}: only https is allowed (http from this machine itself)"));
        }
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err("an address must not hold a user's name or password".into());
        }
    }
    Ok(())
}

fn first_twice<'a>(names: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    let mut seen = std::collections::BTreeSet::new();
    names.into_iter().find(|name| !seen.insert(*name))
}

/// An address for messages and notes, without what may be secret: user, password, and the signatures that queries hold.
pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.to_string()
}

/// Whether a text is a SHA-256 as this crate writes it.
pub(crate) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Whether an address may be asked: https, or http on this machine, where nobody listens in between.
pub(crate) fn is_allowed(url: &Url) -> bool {
    match url.scheme() {
        "https" => url.has_host(),
        "http" => is_loopback(url),
        _ => false,
    }
}

/// Whether an address is of this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(to: &str, url: &str, rest: &str) -> Result<Table> {
        let text = format!(
            "[[item]]\nname = \"a\"\nabout = \"\"\nlicence = \"\"\nlicence_url = \"\"\n[[item.file]]\nto = \"{to}\"\nurls = [\"{url}\"]\n{rest}"
        );
        Table::parse(&text, Path::new("t.toml"))
    }

    #[test]
    fn places_addresses_and_sizes_are_checked() {
        let https = "https://example.org/a";
        assert!(table("data/a", https, "size = 1").is_ok());
        assert!(table("data/a", "http://127.0.0.1:8000/a", "size = 1").is_ok());
        let refused = [
            ("data/../a", https, "size = 1", "below"),
            ("/etc/passwd", https, "size = 1", "below"),
            ("data", https, "size = 1", "below"),
            ("data/a/", https, "size = 1", "below"),
            ("data/./a", https, "size = 1", "below"),
            ("data/fetch-lock.toml", https, "size = 1", "own"),
            ("data/a", "https://user:secret@example.org/a", "size = 1", "password"),
            ("data/a", https, "size = 1\nunpack = [\"b\", \"b\"]", "twice"),
            ("elsewhere/a", https, "size = 1", "below"),
            ("data/a", "http://example.org/a", "size = 1", "https"),
            ("data/a", "http://localhost.example.org/a", "size = 1", "https"),
            ("data/a", "ftp://localhost/a", "size = 1", "https"),
            ("data/a", "file:///etc/passwd", "size = 1", "https"),
            ("data/a", "a b", "size = 1", "a b"),
            ("data/a", https, "", "at_most"),
            ("data/a", https, "size = 1\nsha256 = \"ABC\"", "sha256"),
            ("data/a", https, "size = 1\nunpack = [\"../b\"]", "leaves"),
            ("data/a", https, "size = 1\ntypo = 1", "typo"),
        ];
        for (to, url, rest, expected) in refused {
            let error = table(to, url, rest).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn the_nearest_item_is_named() {
        let error = Table::shipped().unwrap().item("refcoc").unwrap_err().to_string();
        assert!(error.contains("did you mean `refcoco`"), "{error}");
    }
}
