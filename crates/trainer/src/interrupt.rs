//! Signals that ask a run to stop.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;

/// Whether a signal has asked the process to stop.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupt(Arc<AtomicUsize>);

/// Error of work that a signal interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub(crate) struct Interrupted {
    signal: u8,
}

impl Interrupted {
    pub(crate) fn new(signal: u8) -> Self {
        Self { signal }
    }

    pub(crate) fn signal(self) -> u8 {
        self.signal
    }

    /// 128 + signal, which shells expect of a process that a signal ended.
    pub(crate) fn exit_code(self) -> ExitCode {
        ExitCode::from(128 + self.signal)
    }
}

impl Interrupt {
    /// Installs signal handlers that note the first SIGINT, SIGTERM or SIGHUP. A second SIGINT or SIGTERM ends the process at
    /// once; a second SIGHUP does not, because a closing terminal may send several.
    pub(crate) fn listen() -> Result<Self> {
        let interrupt = Self::default();
        let again = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // The order matters: the first signal finds the condition false, then sets it.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&again))
                .and_then(|_| flag::register(signal, Arc::clone(&again)))
                .and_then(|_| flag::register_usize(signal, Arc::clone(&interrupt.0), signal as usize))
                .context("listening for signals")?;
        }
        // `nohup` starts programs with SIGHUP ignored.
        if !cli_kit::is_ignored(SIGHUP) {
            flag::register_usize(SIGHUP, Arc::clone(&interrupt.0), SIGHUP as usize)
                .context("listening for signals")?;
        }
        Ok(interrupt)
    }

    /// Fails once a signal has arrived.
    ///
    /// # Errors
    /// [`Interrupted`] after a signal.
    pub(crate) fn check(&self) -> Result<(), Interrupted> {
        match self.0.load(Ordering::Relaxed) {
            0 => Ok(()),
            signal => Err(Interrupted { signal: signal as u8 }),
        }
    }
}

/// Makes writing beyond the file-size limit (SIGXFSZ) an error like a full disk, instead of ending the process.
///
/// # Errors
/// When the signal handler cannot be installed.
pub(crate) fn survive_file_size_limit() -> Result<()> {
    flag::register(SIGXFSZ, Arc::default()).context("listening for signals")?;
    Ok(())
}
