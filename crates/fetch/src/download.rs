//! Downloads one file into its part: sources in turn, each resumed and tried again.

use std::io::Read;
use std::time::Duration;

use cli_kit::errln;
use command_kit::Progress;
use url::Url;

use crate::check::{fault, sha256, shows_its_end, wrong_kind};
use crate::client::{Answer, Client, Rest, Trouble};
use crate::disk::require_space;
use crate::error::{Error, Result};
use crate::part::{Origin, Part};
use crate::table::{Item, Source, shown};

/// A host that cannot be reached is hardly reached a moment later.
const TRIES_TO_REACH: u32 = 2;

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
        Self { tries: 8, first_wait: Duration::from_secs(1), longest_wait: Duration::from_secs(300) }
    }
}

/// A file that is complete and checked.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) sha256: String,
    /// Whether the checksum is a published one.
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
    pub(crate) patience: Patience,
    /// Checksum that a source has named. It holds for the sources behind it as well.
    pub(crate) named: Option<String>,
}

impl Order<'_> {
    /// Downloads the file into its part and checks it.
    pub(crate) fn download(&mut self, client: &Client, part: &mut Part) -> Result<Checked> {
        let (mut reasons, mut gated) = (Vec::new(), None);
        for url in &self.source.urls {
            let url = Url::parse(url)
                .map_err(|error| Error::Table { path: "sources".into(), what: format!("{url}: {error}") })?;
            let reason = match self.try_source(client, part, &url) {
                Ok(checked) => return Ok(checked),
                Err(Failed::Here(error)) => return Err(error),
                Err(Failed::There(reason)) => reason,
                Err(Failed::Gated(reason)) => {
                    gated = Some(reason.clone());
                    reason
                }
            };
            reasons.push(format!("{}: {reason}", shown(&url)));
        }
        if let (Some(what), Some(page)) = (gated, &self.item.gated) {
            let what = if self.token.is_some() { what } else { format!("{what}, and HF_TOKEN is not set") };
            return Err(Error::Gated { item: self.item.name.clone(), what, page: page.clone() });
        }
        let (path, name) = (part.whole(), self.source.from_name().to_owned());
        Err(Error::NoSourceWorked { path, name, reasons, kept: part.length() })
    }

    /// Downloads from one source.
    fn try_source(
        &mut self,
        client: &Client,
        part: &mut Part,
        url: &Url,
    ) -> std::result::Result<Checked, Failed> {
        let patience = self.patience;
        let (mut tries, mut wait, mut best) = (0, patience.first_wait, part.length());
        let mut may_begin_anew = part.length() > 0;
        let (mut was_reached, mut may_resume) = (false, true);
        loop {
            let mut most_tries = patience.tries;
            let resumes = may_resume && part.length() > 0;
            let result = self.once(client, part, url, may_resume);
            let is_unreachable = matches!(result, Err(Attempt::There(Trouble::Unreachable(_))));
            let (reason, after) = match result {
                Ok(()) => match self.check(part, url)? {
                    Ok(checked) => return Ok(checked),
                    Err(reason) => (reason, None),
                },
                Err(Attempt::Here(error)) => return Err(Failed::Here(error)),
                // Some servers and firewalls refuse ranges alone. The part stays until the beginning of the whole file has come.
                Err(Attempt::There(Trouble::Never(reason))) if resumes => {
                    (may_resume, may_begin_anew) = (false, false);
                    (reason, Some(Duration::ZERO))
                }
                Err(Attempt::There(Trouble::Never(reason))) => return Err(Failed::There(reason)),
                Err(Attempt::There(Trouble::Gated(reason))) => return Err(Failed::Gated(reason)),
                Err(Attempt::There(Trouble::Changed(reason))) => {
                    part.discard()?;
                    (reason, Some(Duration::ZERO))
                }
                Err(Attempt::There(Trouble::Later(reason, after))) => (reason, after),
                Err(Attempt::There(Trouble::Unreachable(reason))) => {
                    if !was_reached {
                        most_tries = most_tries.min(TRIES_TO_REACH);
                    }
                    (reason, None)
                }
            };
            was_reached |= !is_unreachable;
            // A complete file that is wrong: bytes of an earlier call may be of another one, once.
            if part.is_complete() {
                part.discard()?;
                if !may_begin_anew {
                    return Err(Failed::There(reason));
                }
                may_begin_anew = false;
                errln!("{}: {reason}; once more from the start", shown(url));
                continue;
            }
            if part.length() > best {
                (tries, wait, best) = (0, patience.first_wait, part.length());
                may_begin_anew = true;
            }
            tries += 1;
            let pause = after.unwrap_or(wait);
            if tries >= most_tries || pause > patience.longest_wait {
                return Err(Failed::There(reason));
            }
            errln!("{}: {reason}; again in {:.0} s", shown(url), pause.as_secs_f64().ceil());
            std::thread::sleep(pause);
            wait *= 2;
        }
    }

    /// The checksum that the file must have, if one is published.
    fn published(&self) -> Option<&str> {
        self.source.sha256.as_deref().or(self.named.as_deref())
    }

    /// One request: what it brings is added to the part.
    ///
    /// - may_resume: whether the rest of the part may be asked for
    fn once(
        &mut self,
        client: &Client,
        part: &mut Part,
        url: &Url,
        may_resume: bool,
    ) -> std::result::Result<(), Attempt> {
        let origin = part.origin();
        let same_file = origin.url == shown(url) && origin.validator.is_some();
        // A known checksum shows at the end whether the parts of two sources belong together.
        let is_checked = self.published().is_some() || self.locked.is_some();
        let may_resume = may_resume && part.length() > 0 && (same_file || is_checked);
        let rest = may_resume.then(|| Rest {
            from: part.length(),
            total: origin.total,
            validator: origin.validator.as_deref().filter(|_| same_file),
        });
        let token = self.token.filter(|_| self.item.is_gated_at(url));
        let mut answer = client.get(url, rest.as_ref(), token).map_err(Attempt::There)?;
        if let Some(hash) = &answer.sha256 {
            self.named = Some(hash.clone());
        }
        self.accept(&answer, part)?;
        let (first, mut broken) = self.first_bytes(&mut answer)?;
        // The answer with the rest may leave out what that with the beginning has said.
        let known = part.origin().clone();
        let known = if answer.from > 0 { known } else { Origin::default() };
        let (validator, total) = (answer.validator.clone().or(known.validator), answer.total.or(known.total));
        part.begin(answer.from, Origin { url: shown(url), validator, total, ..Origin::default() })?;
        let copied = self.copy(answer, (&first, &mut broken), part);
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
        // What the part holds beyond the answer's start is overwritten.
        let total = answer.total.unwrap_or(cap);
        Ok(require_space(part.path(), total.saturating_sub(part.length()))?)
    }

    /// The first bytes of an answer, and the error that came instead of more. A page in place of the file costs nothing of what was
    /// downloaded before.
    fn first_bytes(
        &self,
        answer: &mut Answer,
    ) -> std::result::Result<(Vec<u8>, Option<std::io::Error>), Attempt> {
        let mut first = Vec::new();
        let error = answer.body.by_ref().take(512).read_to_end(&mut first).err();
        let is_cut =
            error.is_some() || answer.total.is_some_and(|total| (first.len() as u64) < total.min(512));
        match wrong_kind(&first, self.source.file_name()) {
            Some(what) if answer.from == 0 && !first.is_empty() && !is_cut => {
                Err(Attempt::There(Trouble::Never(what)))
            }
            _ => Ok((first, error)),
        }
    }

    /// - first: the first bytes, and the error that came behind them
    fn copy(
        &self,
        mut answer: Answer,
        (first, broken): (&[u8], &mut Option<std::io::Error>),
        part: &mut Part,
    ) -> std::result::Result<(), Attempt> {
        let cap = answer.total.unwrap_or(self.source.cap());
        let mut progress = Progress::bytes(self.source.file_name(), cap, answer.from);
        let mut buffer = vec![0; 1 << 17];
        let mut chunk = first;
        loop {
            if part.length() + chunk.len() as u64 > cap {
                part.discard()?;
                let what = format!("the server sends more than the {cap} bytes allowed");
                return Err(Attempt::There(Trouble::Never(what)));
            }
            part.append(chunk)?;
            progress.advance(chunk.len() as u64, "");
            let read = broken.take().map_or_else(|| answer.body.read(&mut buffer), Err);
            let n = match read {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => 0,
                Err(error) => {
                    let what = format!("the connection broke after {} bytes: {error}", part.length());
                    return Err(Attempt::There(Trouble::Later(what, None)));
                }
            };
            chunk = &buffer[..n];
        }
        let expected = answer.total.or(self.source.size);
        if let Some(total) = expected.filter(|total| part.length() < *total) {
            let what = format!("the connection ended after {} of {total} bytes", part.length());
            return Err(Attempt::There(Trouble::Later(what, None)));
        }
        let is_known = expected.is_some() || self.published().is_some() || self.locked.is_some();
        if !answer.has_end && !is_known && !shows_its_end(self.source.file_name()) {
            part.discard()?;
            let what = "the server does not say how long the file is, so half of it could not be told from the whole";
            return Err(Attempt::There(Trouble::Never(what.into())));
        }
        part.complete();
        Ok(())
    }

    /// Checks a complete part: what it is, or what is wrong with it.
    fn check(&self, part: &Part, url: &Url) -> Result<std::result::Result<Checked, String>> {
        if let Some(what) = fault(part.path(), self.source)? {
            return Ok(Err(what));
        }
        let found = sha256(part.path())?;
        let published = self.published();
        Ok(verdict(&found, published, self.locked).map(|()| Checked {
            published: published.is_some(),
            sha256: found,
            url: shown(url),
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
            "the checksum is {found}, but {} says {locked} was downloaded before; if the source really has another file now, remove the entry from there",
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
    /// The server wants a token, or another one.
    Gated(String),
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
