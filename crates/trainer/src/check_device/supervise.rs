//! Runs each part in its own process, and kills it when its time is up.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::CheckDeviceArgs;
use super::part::{Part, Status};
use super::report::Done;
use crate::interrupt::Interrupt;
use ranks::this_launcher;

/// A part is not started if less time than this is left.
const MIN_TIME: Duration = Duration::from_secs(3);

/// A temporary folder that is removed when this value is dropped.
#[derive(Debug)]
pub(super) struct WorkFolder(PathBuf);

impl WorkFolder {
    pub(super) fn create() -> Result<Self> {
        remove_leftovers(&std::env::temp_dir());
        let named = |turn: u32| format!("talent-check-{}-{turn}", std::process::id());
        // An earlier process with the same id may have been killed and have left its folder with outcomes behind.
        for turn in 0.. {
            let path = std::env::temp_dir().join(named(turn));
            match std::fs::create_dir(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(|| path.display().to_string()),
            }
        }
        bail!("{}: there is no name left for a folder", std::env::temp_dir().display())
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Time after which nothing has been written into the folder of a check that is over: a part takes minutes at most.
const OLD: Duration = Duration::from_secs(3600);

/// Removes the folders of checks that were killed, so that their processes are gone. Those of other users stay, and so do young ones: they may be
/// those of another container, whose processes are not seen here.
fn remove_leftovers(place: &Path) {
    let is_old = |entry: &std::fs::DirEntry| {
        let written = entry.metadata().and_then(|found| found.modified()).ok();
        written.and_then(|written| written.elapsed().ok()).is_some_and(|age| age > OLD)
    };
    for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process =
            name.strip_prefix("talent-check-").and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        let is_gone = process.is_some_and(|process| !Path::new("/proc").join(process.to_string()).exists());
        if is_gone && Path::new("/proc/self").exists() && is_old(&entry) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// The file that a part writes its outcome to.
pub(super) fn outcome_file(work: &Path, part: &Part) -> PathBuf {
    work.join(format!("{}.json", part.name))
}

fn log_file(work: &Path, part: &Part) -> PathBuf {
    work.join(format!("{}.log", part.name))
}

/// Runs a part in its own process.
///
/// # Errors
/// When the process cannot be started. How the process ends is the outcome of its part, not an error.
pub(super) fn carry_out(
    part: &Part,
    args: &CheckDeviceArgs,
    work: &Path,
    deadline: Instant,
    interrupt: &Interrupt,
) -> Result<Done> {
    let started = Instant::now();
    let left = deadline.saturating_duration_since(started);
    let done = |status, figures, message: String| Done {
        name: part.name,
        status,
        seconds: started.elapsed().as_secs_f64(),
        figures,
        message,
    };
    if left < MIN_TIME {
        return Ok(done(Status::NoTime, Default::default(), "not begun".into()));
    }
    let limit = part.limit.min(left);
    let mut child = start(part, args, work)?;
    let Some(status) = wait(&mut child, limit, interrupt)? else {
        if interrupt.check().is_err() {
            return Ok(done(Status::NoTime, Default::default(), "interrupted".into()));
        }
        let seconds = limit.as_secs_f64();
        let (status, message) = match limit < part.limit {
            true => (Status::NoTime, format!("ended after {seconds:.0} s, when all time was used up")),
            false => (Status::Failed, format!("ended after the {seconds:.0} s it may take")),
        };
        return Ok(done(status, Default::default(), message));
    };
    Ok(match read(&outcome_file(work, part)) {
        Some((status, figures, message)) => done(status, figures, message),
        None => {
            let log = std::fs::read_to_string(log_file(work, part)).unwrap_or_default();
            let last = log.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
            let advice = match status.signal() {
                Some(9) => "; the system ends a process so when memory runs out",
                None if log.is_empty() && !can_write(work) => {
                    "; nothing can be written into TMPDIR: it is full, or the disk is"
                }
                _ => "",
            };
            done(
                Status::Failed,
                Default::default(),
                format!("its process ended early ({status}): {last}{advice}"),
            )
        }
    })
}

/// Whether a file of some kilobytes can be written.
fn can_write(folder: &Path) -> bool {
    let probe = folder.join("probe");
    let written = std::fs::write(&probe, [1; 16 << 10]).is_ok();
    let _ = std::fs::remove_file(&probe);
    written
}

fn start(part: &Part, args: &CheckDeviceArgs, work: &Path) -> Result<Child> {
    let program = std::env::current_exe().context("this program's path")?;
    let log = File::create(log_file(work, part)).context("the part's log")?;
    let mut command = Command::new(&program);
    command
        .envs([this_launcher()])
        .args(["check-device", "--device", args.device.as_deref().unwrap_or_default(), "--part", part.name])
        .arg("--work")
        .arg(work);
    // Waiting OpenMP threads yield their core: next to other programs, busy waiting makes a step a hundred times slower.
    if std::env::var_os("OMP_WAIT_POLICY").is_none() {
        command.env("OMP_WAIT_POLICY", "passive");
    }
    if args.quick {
        command.arg("--quick");
    }
    if let Some(golden) = &args.golden {
        command.arg("--golden").arg(golden);
    }
    // The part and its child processes form a process group, so that they can be killed together.
    command.process_group(0);
    let output = log.try_clone().context("the part's log")?;
    command.stdin(Stdio::null()).stdout(output).stderr(log);
    command.spawn().with_context(|| program.display().to_string())
}

/// The exit status of the process, or `None` if it took longer than `limit`, or this process was interrupted, and it was killed.
fn wait(child: &mut Child, limit: Duration, interrupt: &Interrupt) -> Result<Option<ExitStatus>> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().context("waiting for a part")? {
            return Ok(Some(status));
        }
        if started.elapsed() >= limit || interrupt.check().is_err() {
            end_group(child);
            let _ = child.wait();
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn end_group(child: &mut Child) {
    use rustix::process::{Pid, Signal, kill_process_group};
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if group.is_none_or(|group| kill_process_group(group, Signal::KILL).is_err()) {
        let _ = child.kill();
    }
}

fn read(path: &Path) -> Option<(Status, serde_json::Map<String, Value>, String)> {
    let outcome: Value = serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()?;
    let status = Status::ALL.into_iter().find(|status| outcome["status"] == status.name())?;
    Some((status, outcome["figures"].as_object()?.clone(), outcome["message"].as_str()?.to_owned()))
}
