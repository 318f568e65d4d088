//! Progress of long work, for terminals and for log files.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use cli_kit::{errln, escape};
use indicatif::{ProgressBar, ProgressStyle};

/// Progress of long work on standard error: a bar with rate and remaining time on a terminal, otherwise a plain line at
/// intervals.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    label: String,
    total: u64,
    done: u64,
    first: u64,
    started: Instant,
    last_line: Instant,
    unit: Unit,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Things,
    Bytes,
}

const LINE_EVERY: Duration = Duration::from_secs(10);

impl Progress {
    /// Starts at `done` of `total` units.
    ///
    /// - done: units that an earlier process has done
    pub fn new(label: &str, total: u64, done: u64) -> Self {
        Self::of(Unit::Things, label, total, done)
    }

    /// The same for bytes.
    pub fn bytes(label: &str, total: u64, done: u64) -> Self {
        Self::of(Unit::Bytes, label, total, done)
    }

    fn of(unit: Unit, label: &str, total: u64, done: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total)
                .with_position(done)
                .with_message("")
                .with_prefix(escape(label).into_owned());
            let template = match unit {
                Unit::Things => "{prefix} {bar:30} {pos}/{len}  {per_sec}  {eta} left  {msg}",
                Unit::Bytes => {
                    "{prefix} {bar:30} {decimal_bytes}/{decimal_total_bytes}  {decimal_bytes_per_sec}  {eta} left  {msg}"
                }
            };
            bar.set_style(
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar.reset_eta();
            bar
        });
        let now = Instant::now();
        Self { bar, label: label.to_owned(), total, done, first: done, started: now, last_line: now, unit }
    }

    /// Progress that is not shown, for work whose progress another process shows.
    pub fn hidden() -> Self {
        let now = Instant::now();
        let bar = Some(ProgressBar::hidden());
        let unit = Unit::Things;
        Self { bar, label: String::new(), total: 0, done: 0, first: 0, started: now, last_line: now, unit }
    }

    /// A handle that clears the bar while other work shows its own.
    pub fn pauser(&self) -> Pauser {
        Pauser(self.bar.clone())
    }

    /// Removes the bar from the screen.
    pub fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Counts `n` more units as done.
    pub fn advance(&mut self, n: u64, message: &str) {
        self.done += n;
        if let Some(bar) = &self.bar {
            bar.set_message(escape(message).into_owned());
            bar.set_position(self.done);
        } else if self.last_line.elapsed() >= LINE_EVERY || self.done == self.total {
            self.last_line = Instant::now();
            let rate = (self.done - self.first) as f64 / self.started.elapsed().as_secs_f64().max(1e-9);
            let left = self.total.saturating_sub(self.done) as f64 / rate.max(1e-9);
            let (done, total) = (self.done, self.total);
            match self.unit {
                Unit::Things => {
                    errln!("{} {done}/{total}  {rate:.2}/s  {left:.0} s left  {message}", self.label);
                }
                Unit::Bytes => {
                    let [done, total, rate] = [done as f64, total as f64, rate].map(|bytes| bytes / 1e6);
                    errln!("{} {done:.1}/{total:.1} MB  {rate:.1} MB/s  {left:.0} s left", self.label);
                }
            }
        }
    }
}

/// A text of several lines that stays at the bottom of the terminal and is replaced when it changes. Shows nothing if standard
/// error is not a terminal.
#[derive(Debug)]
pub struct Live(Option<ProgressBar>);

impl Live {
    /// Shows a text, on a terminal only.
    pub fn new(text: impl FnOnce() -> String) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style =
                ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
            ProgressBar::new_spinner().with_style(style)
        });
        let live = Self(bar);
        live.show(text);
        live
    }

    /// Replaces the text; `text` is only called if the text is visible.
    pub fn show(&self, text: impl FnOnce() -> String) {
        if let Some(bar) = &self.0 {
            bar.set_message(escape(&text()).into_owned());
            bar.tick();
        }
    }

    /// Writes a line to standard error, above the text on a terminal.
    pub fn line(&self, line: &str) {
        match &self.0 {
            Some(bar) => bar.suspend(|| errln!("{line}")),
            None => errln!("{line}"),
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// Clears a progress bar for a while, see [`Progress::pauser`].
#[derive(Debug)]
pub struct Pauser(Option<ProgressBar>);

impl Pauser {
    /// Runs `work` while the bar is cleared.
    pub fn pause<R>(&self, work: impl FnOnce() -> R) -> R {
        match &self.0 {
            Some(bar) => bar.suspend(work),
            None => work(),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
