//! Downloads one file into its part: sources in turn, each resumed and tried again.

use std::io::Read;
use std::time::Duration;

use cli_kit::errln;
use command_kit::Progress;
use url::Url;

use crate::check::{fault, sha256};
use crate::client::{Answer, Client, Rest, Trouble};
use crate::disk::require_space;
use crate::error::{Error, Result};
use crate::part::{Origin, Part};
use crate::table::{Item, Source};
use crate::unpack::Archive;

/// How often a source is asked again when it brings nothing new, and how long it is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Number of times that a source is asked without a new byte.
    pub tries: u32,
    /// Time before the second try; doubled with each further one.
    pub first_wait: Duration,
    /// The longest time that a server may ask to wait (`Retry-After`). If it asks for more, the next source is tried.
    pub longest_wait: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { tries: 5, first_wait: Duration::from_secs(1), longest_wait: Duration::from_secs(300) }
    }
}

/// A file that is complete and checked.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) sha256: String,
    /// Whether the checksum is one that the source publishes.
    pub(crate) published: bool,
    pub(crate) url: String,
}

/// What is downloaded, and what is known about it.
pub(crate) struct Order<'a> {
    pub(crate) item: &'a Item,
    pub(crate) source: &'a Source,
    /// Checksum of an earlier download.
    pub(crate) locked: Option<&'a str>,
    pub(crate) token: Option<&'a str>,
}

impl Order<'_> {
    /// Downloads the file into its part and checks it.
    pub(crate) fn download(&self, client: &Client, patience: Patience, part: &mut Part) -> Result<Checked> {
        let mut reasons = Vec::new();
        for url in &self.source.urls {
            match self.from(client, patience, part, url) {
                Ok(checked) => return Ok(checked),
                Err(Failed::Here(error)) => return Err(error),
                Err(Failed::There(reason)) => {
                    errln!("{url}: {reason}");
                    reasons.push(format!("{url}: {reason}"));
                }
            }
        }
        Err(Error::NoSourceWorked {
            path: part.path().with_extension(""),
            name: self.source.file_name().to_owned(),
            reasons,
        })
    }

    /// Downloads from one source.
    fn from(
        &self,
        client: &Client,
        patience: Patience,
        part: &mut Part,
        url: &str,
    ) -> std::result::Result<Checked, Failed> {
        let at = Url::parse(url).map_err(|error| Failed::There(error.to_string()))?;
        let (mut tries, mut wait, mut anew) = (0, patience.first_wait, false);
        loop {
            let before = part.length();
            let resumed = before > 0;
            let (reason, after) = match self.once(client, part, &at) {
                Ok(()) => match self.check(part, url)? {
                    Ok(checked) => return Ok(checked),
                    // Bytes of an earlier call may be of another file.
                    Err(reason) if resumed && !anew => {
                        part.discard()?;
                        anew = true;
                        errln!("{url}: {reason}; once more from the start");
                        continue;
                    }
                    Err(reason) => {
                        part.discard()?;
                        return Err(Failed::There(reason));
                    }
                },
                Err(Attempt::Here(error)) => return Err(Failed::Here(error)),
                Err(Attempt::There(Trouble::Never(reason))) => return Err(Failed::There(reason)),
                Err(Attempt::There(Trouble::Gated(what))) => return Err(self.gated(what)),
                Err(Attempt::There(Trouble::Later(reason, after))) => (reason, after),
            };
            if part.length() > before {
                (tries, wait) = (0, patience.first_wait);
            }
            tries += 1;
            let pause = after.unwrap_or(wait);
            if tries >= patience.tries || pause > patience.longest_wait {
                return Err(Failed::There(reason));
            }
            errln!("{url}: {reason}; again in {:.0} s", pause.as_secs_f64().ceil());
            std::thread::sleep(pause);
            wait *= 2;
        }
    }

    /// A source that refuses: with the page of the licence, if the item is gated.
    fn gated(&self, what: String) -> Failed {
        match &self.item.gated {
            Some(page) => {
                let what =
                    if self.token.is_some() { what } else { format!("{what}, and HF_TOKEN is not set") };
                Failed::Here(Error::Gated { item: self.item.name.clone(), what, page: page.clone() })
            }
            None => Failed::There(what),
        }
    }

    /// One request: what it brings is added to the part.
    fn once(&self, client: &Client, part: &mut Part, url: &Url) -> std::result::Result<(), Attempt> {
        let same_file = part.origin().url == url.as_str() && part.origin().validator.is_some();
        // A known checksum shows at the end whether the parts of two sources belong together.
        let is_checked = self.source.sha256.is_some() || self.locked.is_some();
        let rest = (part.length() > 0 && (same_file || is_checked)).then(|| Rest {
            from: part.length(),
            validator: part.origin().validator.as_deref().filter(|_| same_file),
        });
        let token = self.token.filter(|_| self.item.gated.is_some());
        let answer = client.get(url, rest.as_ref(), token).map_err(Attempt::There)?;
        self.accept(&answer, part)?;
        let origin = Origin {
            url: url.to_string(),
            validator: answer.validator.clone(),
            sha256: answer.sha256.clone(),
            ..Origin::default()
        };
        part.begin(answer.from, origin)?;
        let copied = self.copy(answer, part);
        part.take_note()?;
        copied
    }

    /// Refuses a file that is too large, or for which there is no room.
    fn accept(&self, answer: &Answer, part: &Part) -> std::result::Result<(), Attempt> {
        let never = |what| Err(Attempt::There(Trouble::Never(what)));
        let cap = self.source.cap();
        match (answer.total, self.source.size) {
            (Some(total), Some(size)) if total != size => {
                return never(format!("the file has {total} bytes in place of {size}"));
            }
            (Some(total), _) if total > cap => {
                return never(format!("the file has {total} bytes, more than the {cap} allowed"));
            }
            _ => {}
        }
        let total = answer.total.unwrap_or(cap);
        Ok(require_space(part.path(), total.saturating_sub(answer.from))?)
    }

    fn copy(&self, mut answer: Answer, part: &mut Part) -> std::result::Result<(), Attempt> {
        let cap = self.source.cap();
        let label = self.source.file_name().to_owned();
        let mut progress = Progress::bytes(&label, answer.total.unwrap_or(cap), answer.from);
        let mut buffer = vec![0; 1 << 17];
        loop {
            let n = match answer.body.read(&mut buffer) {
                Ok(n) => n,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let what = format!("the connection broke after {} bytes: {error}", part.length());
                    return Err(Attempt::There(Trouble::Later(what, None)));
                }
            };
            if n == 0 {
                break;
            }
            if part.length() + n as u64 > cap {
                part.discard()?;
                let what = format!("the server sends more than the {cap} bytes allowed");
                return Err(Attempt::There(Trouble::Never(what)));
            }
            part.append(&buffer[..n])?;
            progress.advance(n as u64, "");
        }
        match answer.total {
            Some(total) if part.length() < total => {
                let what = format!("the connection ended after {} of {total} bytes", part.length());
                Err(Attempt::There(Trouble::Later(what, None)))
            }
            _ => Ok(()),
        }
    }

    /// Checks a complete part: what it is, or what is wrong with it.
    fn check(&self, part: &Part, url: &str) -> Result<std::result::Result<Checked, String>> {
        if let Some(what) = fault(part.path(), self.source)? {
            return Ok(Err(what));
        }
        if !self.source.unpack.is_empty() {
            let mut archive = Archive::open(part.path(), &self.source.unpack);
            if let Err(what) = archive.as_mut().map_err(|what| what.clone()).and_then(Archive::test) {
                return Ok(Err(what));
            }
        }
        let found = sha256(part.path())?;
        let published = self.source.sha256.as_deref().or(part.origin().sha256.as_deref());
        Ok(verdict(&found, published, self.locked).map(|()| Checked {
            published: published.is_some(),
            sha256: found,
            url: url.to_owned(),
        }))
    }
}

/// Compares a checksum with the published one and with that of an earlier download.
pub(crate) fn verdict(
    found: &str,
    published: Option<&str>,
    locked: Option<&str>,
) -> std::result::Result<(), String> {
    match (published, locked) {
        (Some(published), _) if published != found => {
            Err(format!("the checksum is {found} in place of the published {published}"))
        }
        (_, Some(locked)) if locked != found => Err(format!(
            "the checksum is {found}, but {} says {locked} was downloaded before",
            crate::LOCK_FILE
        )),
        _ => Ok(()),
    }
}

/// Why one request brought no complete file.
enum Attempt {
    /// For a reason of this machine.
    Here(Error),
    /// For a reason of the server or the network.
    There(Trouble),
}

impl From<Error> for Attempt {
    fn from(error: Error) -> Self {
        Self::Here(error)
    }
}

/// Why a source brought no file.
enum Failed {
    /// For a reason of this machine or this account, which other sources share.
    Here(Error),
    /// For a reason of the source.
    There(String),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Here(error)
    }
}
