impl From<tch::TchError> for Error {
    fn from(error: tch::TchError) -> Self {
        Self::Libtorch(error.to_string())
    }
}

/// Error of a process group.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Message from libtorch, without its stack trace.
    #[error("libtorch: {0}")]
    Libtorch(String),
    /// The environment variables of the launcher are incomplete or invalid, or the store cannot be reached.
    #[error("{0}")]
    Rendezvous(String),
    /// A process did not join within the time-out.
    #[error("rank {rank} of {size} did not come to {meeting} within {seconds} s")]
    Absent {
        /// Rank of the missing process.
        rank: usize,
        /// Number of processes (world size).
        size: usize,
        /// Host and port at which the others wait.
        meeting: String,
        /// Seconds that they waited.
        seconds: u64,
    },
    /// Two processes joined with different settings.
    #[error("rank {rank} differs from rank 0: {what}")]
    Differs {
        /// Rank of the process that differs from rank 0.
        rank: usize,
        /// The settings that differ, with both values.
        what: String,
    },
    /// The binding was compiled without the feature of this name.
    #[error("this build has no {0}; build with the feature of that name (`cargo xtask launch --{0}`)")]
    NotBuilt(&'static str),
    /// A background operation was started before [`connect_beside`](crate::Group::connect_beside).
    #[error("an operation in the background needs connections of its own; call `connect_beside` first")]
    NotConnected,
    /// This process has left the group.
    #[error("this process has left the others")]
    Left,
    /// A process was lost during an operation. The message names the process at fault.
    #[error("{0}")]
    Lost(String),
}
