use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use crate::{Error, Result};

/// Names the process that this one must not outlive.
const VARIABLE: &str = "TALENT_LAUNCHER";

/// For the environment of a process that must not outlive this one; it should be started by a thread that waits for it, since
/// the kernel looks at that thread.
pub fn this_launcher() -> (&'static str, String) {
    (VARIABLE, std::process::id().to_string())
}

/// Ends this process as soon as the one that [`this_launcher`] names is gone; nothing where none is named.
///
/// # Errors
/// When it is gone already.
pub fn end_with_launcher() -> Result<()> {
    let Ok(launcher) = std::env::var(VARIABLE) else { return Ok(()) };
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| Error::System {
        what: "tying this process to its launcher",
        source: error.into(),
    })?;
    let parent = getppid().map(|pid| pid.as_raw_nonzero().to_string());
    if parent.as_deref() == Some(launcher.as_str()) { Ok(()) } else { Err(Error::LauncherGone) }
}
