use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use crate::{Error, Result};

/// Environment variable with the process id of the launcher, which this process must not outlive.
const VARIABLE: &str = "TALENT_LAUNCHER";

/// Environment variable for a child process that must not outlive this one. Start the child from a thread that waits for it:
/// the kernel's parent-death signal is tied to that thread.
pub fn this_launcher() -> (&'static str, String) {
    (VARIABLE, std::process::id().to_string())
}

/// Makes the kernel end this process as soon as the one that [`this_launcher`] names is gone. Does nothing if none is named.
///
/// # Errors
/// When the launcher is gone already.
pub fn end_with_launcher() -> Result<()> {
    let Ok(launcher) = std::env::var(VARIABLE) else { return Ok(()) };
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| Error::System {
        what: "tying this process to its launcher",
        source: error.into(),
    })?;
    let parent = getppid().map(|pid| pid.as_raw_nonzero().to_string());
    if parent.as_deref() == Some(launcher.as_str()) { Ok(()) } else { Err(Error::LauncherGone) }
}
