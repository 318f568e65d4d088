//! Processes that end with the one that started them, even if that one is killed.

use anyhow::{Context, Result, ensure};

/// Names the process that this one must not outlive.
const VARIABLE: &str = "TALENT_LAUNCHER";

/// For the environment of a process that must not outlive this one; it should be started by a thread that waits for it, since
/// the kernel looks at that thread.
pub(crate) fn this_launcher() -> (&'static str, String) {
    (VARIABLE, std::process::id().to_string())
}

/// Ends this process as soon as the one that [`this_launcher`] (or `cargo xtask launch`) names is gone.
///
/// # Errors
/// When it is gone already.
pub(crate) fn end_with_launcher() -> Result<()> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    let Ok(launcher) = std::env::var(VARIABLE) else { return Ok(()) };
    set_parent_process_death_signal(Some(Signal::KILL)).context("tying this process to its launcher")?;
    let parent = getppid().map(|pid| pid.as_raw_nonzero().to_string());
    ensure!(parent.as_deref() == Some(launcher.as_str()), "the launcher is gone");
    Ok(())
}
