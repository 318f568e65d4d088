//! Compiles what needs no libtorch while libtorch is being downloaded.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

use crate::project::cargo;

/// A build of `talent` in the background, which ends when this is dropped. What it has compiled by then is kept.
pub(crate) struct Ahead {
    build: Arc<Mutex<Option<Child>>>,
    signals: Handle,
}

impl Ahead {
    /// Starts the build. `None` if it could not be started, which costs time and nothing else.
    ///
    /// Building libtorch's binding fails at once, since there is no libtorch yet, and with `--keep-going` cargo compiles all that does
    /// not depend on it: two thirds of the work.
    pub(crate) fn start() -> Option<Self> {
        let mut command = cargo();
        command.args(["build", "--release", "--locked", "--keep-going", "--package", "trainer"]);
        Self::run(command.env("LIBTORCH", "/nonexistent"))
    }

    fn run(command: &mut Command) -> Option<Self> {
        let mut signals = Signals::new(
            [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|&signal| !cli_kit::is_ignored(signal)),
        )
        .ok()?;
        let silent = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // A process group of its own, so that the compilers end together with cargo.
        let build = Arc::new(Mutex::new(Some(silent.process_group(0).spawn().ok()?)));
        let handle = signals.handle();
        let of_signals = Arc::clone(&build);
        std::thread::spawn(move || {
            for signal in &mut signals {
                end(&of_signals);
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
        });
        Some(Self { build, signals: handle })
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        end(&self.build);
        self.signals.close();
    }
}

fn end(build: &Mutex<Option<Child>>) {
    let Some(mut child) = build.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    // It has ended already if the group is gone.
    let _ = group.map(|group| kill_process_group(group, Signal::TERM));
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_group_ends() {
        let folder = tempfile::tempdir().unwrap();
        let written = folder.path().join("pid");
        let script = format!("sleep 600 & echo $! > {0}.part; mv {0}.part {0}; wait", written.display());
        let ahead = Ahead::run(Command::new("sh").args(["-c", &script])).unwrap();
        let process = loop {
            match std::fs::read_to_string(&written) {
                Ok(text) => break text.trim().to_owned(),
                Err(_) => std::thread::sleep(std::time::Duration::from_millis(10)),
            }
        };
        drop(ahead);
        let of = std::path::Path::new("/proc").join(process).join("stat");
        // A zombie until its new parent reads its status.
        let runs = || std::fs::read_to_string(&of).is_ok_and(|stat| !stat.contains(") Z "));
        for _ in 0..500 {
            if !runs() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("the process still runs");
    }
}
