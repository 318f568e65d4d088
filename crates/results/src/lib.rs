//! Tables, plots and reports of runs.
//!
//! Reads only what runs wrote: `metrics.json`, `expressions.jsonl`, `config.toml`, `cell.json` and `ablation.json`. Runs that
//! are unfinished or of another version are reported and left out.
//!
//! - [`read_runs`] finds runs and reads them;
//! - [`runs_frame`] and [`expressions_frame`] convert them to Polars frames, which can be written as CSV or Parquet;
//! - [`Summary`] is the table over seeds, with intervals of the difference to a baseline;
//! - [`published`] are figures from papers and official logs;
//! - [`run`] is the `results` command;
//! - [`report()`] puts everything into one HTML file.

mod command;
mod frames;
mod grid;
mod groups;
mod measures;
mod plots;
pub mod published;
mod read;
mod report;
mod summary;
mod table;

pub use command::run;
pub use command_kit::{Differences, Interval};
pub use frames::{expressions_frame, runs_frame, write_csv, write_parquet};
pub use measures::{MEASURES, Measure};
pub use plots::plot;
pub use read::{Found, LeftOut, Run, read_runs};
pub use report::report;
pub use summary::{GroupLine, Line, MeanSd, Summary};
pub use table::TableFormat;

/// Why results could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] whole_file::Error),
    /// A file could not be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: std::path::PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A pattern for run folders is malformed.
    #[error("pattern `{pattern}`: {source}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with the pattern.
        source: glob::PatternError,
    },
    /// Polars could not write a file.
    #[error("{}: {source}", path.display())]
    Polars {
        /// The file being written.
        path: std::path::PathBuf,
        /// Polars' reason.
        source: polars::error::PolarsError,
    },
    /// A plot could not be drawn.
    #[error(transparent)]
    Figure(#[from] figures::Error),
    /// No runs match the requested table.
    #[error("{0}")]
    Empty(String),
}

pub(crate) fn io_error(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::Io { path, source }
}
