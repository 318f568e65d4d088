//! The processes of a distributed run on this machine: started, each told who it is through the environment that torchrun uses
//! too, watched, and none left behind.
//!
//! - [`Team`] says how many there are and where they meet; [`Team::start`] starts them;
//! - [`Ranks::supervise`] waits for them, passes signals on, and ends what does not end by itself;
//! - [`this_launcher`] and [`end_with_launcher`] tie a process to the one that started it, even if that one is killed.

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
    /// The system refuses something else.
    #[error("{what}: {source}")]
    System {
        /// What was to be done.
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
