impl From<tch::TchError> for Error {
    fn from(error: tch::TchError) -> Self {
        Self::Libtorch(error.to_string())
    }
}

/// Why processes cannot work together, or no longer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// What libtorch says, without its stack.
    #[error("libtorch: {0}")]
    Libtorch(String),
    /// The environment does not say how to meet.
    #[error("{0}")]
    Rendezvous(String),
    /// A process did not come.
    #[error("rank {rank} of {size} did not come to {meeting} within {seconds} s")]
    Absent {
        /// Who is missing.
        rank: usize,
        /// Of so many.
        size: usize,
        /// Where the others wait, host and port.
        meeting: String,
        /// How long they waited.
        seconds: u64,
    },
    /// Two processes are not about to do the same.
    #[error("rank {rank} differs from rank 0: {what}")]
    Differs {
        /// Who differs.
        rank: usize,
        /// In what, both values named.
        what: String,
    },
    /// The binding was compiled without what is asked for.
    #[error("this build has no {0}; build with the feature of that name (`cargo xtask launch --{0}`)")]
    NotBuilt(&'static str),
    /// Operations in the background have no connections yet.
    #[error("an operation in the background needs connections of its own; call `connect_beside` first")]
    NotConnected,
    /// This process has left the others.
    #[error("this process has left the others")]
    Left,
    /// A process was lost on the way.
    #[error("{0}")]
    Lost(String),
}
