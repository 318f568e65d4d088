//! Starts and supervises the processes of a distributed run on this machine. Each learns its rank from the same environment
//! variables that torchrun sets, and none is left behind.
//!
//! - [`Team`] holds the number of processes and their rendezvous; [`Team::start`] starts them;
//! - [`Ranks::supervise`] waits for them, forwards signals, and kills processes that do not end by themselves;
//! - [`this_launcher`] and [`end_with_launcher`] end a process together with the one that started it, even if that one is
//!   killed.

mod launcher;
mod team;

pub use launcher::{end_with_launcher, this_launcher};
pub use team::{Ranks, Team};

/// Why processes could not be started or waited for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A process cannot be started.
    #[error("{program}: {source}")]
    Start {
        /// The program.
        program: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Another system call failed.
    #[error("{what}: {source}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// This process was to end with its launcher, which has ended already.
    #[error("the launcher is gone")]
    LauncherGone,
}

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
