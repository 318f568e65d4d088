//! A run's folder: resolved config, environment, records, checkpoints, pictures.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use cli_kit::errln;
use command_kit::DEFAULT_DATA_ROOT;
use run_files::{Record, records_file};
use rustix::fs::OFlags;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::checkpoint::{Checkpoints, Position, hex};
use crate::config::Config;

/// Lock on a run's folder. It is released when the process ends, even if it is killed.
#[derive(Debug)]
pub(crate) struct RunLock {
    path: PathBuf,
    /// Locked as long as it is open.
    _file: File,
}

impl RunLock {
    /// Locks the folder, and creates it if it is missing.
    ///
    /// # Errors
    /// When another process holds the lock.
    pub(crate) fn take(path: &Path) -> Result<Self> {
        Self::take_as(path, "run.lock")
    }

    /// [`RunLock::take`] with another file.
    pub(crate) fn take_as(path: &Path, file: &str) -> Result<Self> {
        std::fs::create_dir_all(path).with_context(|| path.display().to_string())?;
        let name = path.join(file);
        let file = open_lock(&name).with_context(|| name.display().to_string())?;
        match file.try_lock() {
            Ok(()) => Ok(Self { path: path.to_path_buf(), _file: file }),
            Err(TryLockError::WouldBlock) => {
                bail!("{}: another process is working in this folder", path.display())
            }
            Err(TryLockError::Error(error)) => Err(error).with_context(|| name.display().to_string()),
        }
    }
}

/// Opens a lock file, which is empty. Does not follow a symlink in its place, and does not block on a pipe.
fn open_lock(path: &Path) -> Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(flags as i32)
        .open(path)
        .with_context(|| match path.is_symlink() {
            true => "this is a link; remove it".to_owned(),
            false => "the lock of the run's folder".to_owned(),
        })?;
    ensure!(file.metadata()?.is_file(), "this is not a file; remove it");
    Ok(file)
}

/// A run's folder.
#[derive(Debug)]
pub(crate) struct RunDir {
    lock: RunLock,
    records: File,
    n_records: usize,
    /// SHA-256 of all records so far, without their `runtime`.
    digest: Sha256,
}

impl RunDir {
    /// Prepares the folder, and keeps the records that belong to a position.
    ///
    /// # Errors
    /// When there are fewer records, one of them is damaged, or something cannot be written.
    pub(crate) fn open(lock: RunLock, cfg: &Config, environment: &Value, at: &Position) -> Result<Self> {
        let path = &lock.path;
        let records = records_file(path);
        // Checked before any file is changed.
        let kept = counted_records(&records, at)?;
        let checkpoints = Checkpoints::of(path);
        std::fs::create_dir_all(checkpoints.path())
            .with_context(|| checkpoints.path().display().to_string())?;
        whole_file::remove_unfinished(path)?;
        whole_file::remove_unfinished(checkpoints.path())?;
        whole_file::write(&path.join("config.toml"), toml::to_string_pretty(cfg)?.as_bytes())?;
        write_environment(path, environment, at.step > 0)?;
        whole_file::write(&records, &kept)?;
        let file =
            OpenOptions::new().append(true).open(&records).with_context(|| records.display().to_string())?;
        let mut digest = Sha256::new();
        kept.split_inclusive(|byte| *byte == b'\n').for_each(|line| digest.update(without_runtime(line)));
        Ok(Self { lock, records: file, n_records: at.n_records, digest })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.lock.path
    }

    pub(crate) fn checkpoints(&self) -> Checkpoints {
        Checkpoints::of(self.path())
    }

    /// Stores the number and the SHA-256 of all records so far in a position.
    pub(crate) fn count_records(&self, at: &mut Position) {
        at.n_records = self.n_records;
        at.records_sha256 = hex(self.digest.clone());
    }

    /// Appends one record.
    pub(crate) fn record(&mut self, record: &Record) -> Result<()> {
        let line = format!("{}\n", serde_json::to_string(record)?);
        let path = records_file(self.path());
        let name = || path.display().to_string();
        self.records.write_all(line.as_bytes()).with_context(name)?;
        // Writing to a removed file succeeds, but the record would be lost.
        ensure!(self.records.metadata().with_context(name)?.nlink() > 0, "{}: it was removed", name());
        self.n_records += 1;
        self.digest.update(without_runtime(line.as_bytes()));
        Ok(())
    }

    /// Flushes all records to the disk.
    pub(crate) fn sync_records(&self) -> Result<()> {
        self.records.sync_data().with_context(|| records_file(self.path()).display().to_string())
    }
}

/// The bytes of the records that belong to a position. What follows them was written after the last checkpoint or by a failing
/// machine, and is ignored.
pub(crate) fn counted_records(path: &Path, at: &Position) -> Result<Vec<u8>> {
    let n = at.n_records;
    if n == 0 {
        return Ok(Vec::new());
    }
    // Reading a pipe would block, and reading a device might never end.
    let is_file = std::fs::metadata(path).with_context(|| path.display().to_string())?.is_file();
    ensure!(is_file, "{}: this is not a file", path.display());
    let mut bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    let mut end = 0;
    let mut step = 0;
    let mut digest = Sha256::new();
    for number in 1..=n {
        let Some(length) = bytes[end..].iter().position(|&byte| byte == b'\n') else {
            bail!(
                "{}: it holds {} records, but the checkpoint was written after {n}",
                path.display(),
                number - 1
            );
        };
        check_record(&bytes[end..end + length], &mut step)
            .with_context(|| format!("{}: line {number} is damaged", path.display()))?;
        digest.update(without_runtime(&bytes[end..end + length + 1]));
        end += length + 1;
    }
    ensure!(
        at.records_sha256.is_empty() || at.records_sha256 == hex(digest),
        "{}: its first {n} records are not those that the checkpoint was written after; one was changed or lost",
        path.display()
    );
    bytes.truncate(end);
    Ok(bytes)
}

/// A record without its last part, `runtime`, which depends on the clock.
fn without_runtime(line: &[u8]) -> &[u8] {
    let end = memchr::memmem::rfind(line, b",\"runtime\":");
    &line[..end.unwrap_or(line.len())]
}

/// Checks that a record is valid and follows the one before it.
///
/// - step: step of the record before this one, 0 at first; updated to the step of this record
fn check_record(line: &[u8], step: &mut u64) -> Result<()> {
    let record: Record = serde_json::from_slice(line)?;
    let found = record.step();
    // A run that starts from an official checkpoint may begin at any step.
    let follows = match record {
        Record::Step(_) => *step == 0 || found == *step + 1,
        Record::Eval(_) | Record::Final(_) => *step == 0 || found == *step,
    };
    ensure!(follows, "it is of step {found}, and the record before it of step {step}");
    *step = found;
    Ok(())
}

/// Name of the CPU.
pub(crate) fn cpu_model() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("model name"))?;
    Some(line.trim_start_matches([' ', '\t', ':']).to_owned())
}

const ENVIRONMENT: &str = "environment.json";

/// Key in `environment.json` of the number of refs that a run is trained on.
pub(crate) const TRAINING_REFS: &str = "training_refs";

/// The data root of a run's last start, if it is still there.
fn recorded_data_root(run: &Path) -> Option<PathBuf> {
    let root = PathBuf::from(read_environment(run)?["data_root"].as_str()?);
    root.is_dir().then_some(root)
}

/// The data root for a command on a run: the one given, else that of the run, else the default.
pub(crate) fn data_root_of(given: Option<&PathBuf>, run: Option<&Path>) -> PathBuf {
    let default = PathBuf::from(DEFAULT_DATA_ROOT);
    if let Some(given) = given {
        return given.clone();
    }
    match run.and_then(recorded_data_root) {
        Some(root) if default.canonicalize().ok().as_ref() != Some(&root) => {
            errln!("data: {}, as the run has it", root.display());
            root
        }
        _ => default,
    }
}

/// Values of `environment.json` that the last digits of a run's results depend on.
const DECIDES_ROUNDING: [&str; 5] = ["libtorch", "device", "cpu", "cpu_kernels", "matmul_dtype"];

/// The environment of a run's last start; `None` if it is not known.
pub(crate) fn read_environment(run: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(run.join(ENVIRONMENT)).ok()?).ok()
}

/// Writes `environment.json`. Of a run that goes on, it keeps what the run began with, and says what has changed since.
fn write_environment(run: &Path, environment: &Value, goes_on: bool) -> Result<()> {
    let mut environment = environment.clone();
    if let (true, Some(before)) = (goes_on, read_environment(run)) {
        if environment["init"].is_null() {
            environment["init"] = before["init"].clone();
        }
        for change in changes(&before, &environment) {
            errln!("note: {change}; the run goes on, but not with the same last digits");
        }
    }
    let text = serde_json::to_string_pretty(&environment)?;
    Ok(whole_file::write(&run.join(ENVIRONMENT), text.as_bytes())?)
}

/// What differs in [`DECIDES_ROUNDING`], as text.
fn changes(before: &Value, now: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let differs = |key: &&str| !before[key].is_null() && before[key] != now[key];
    let change = |key: &str| format!("{key} was {}, and is {}", text(&before[key]), text(&now[key]));
    DECIDES_ROUNDING.into_iter().filter(differs).map(change).collect()
}

/// Contents of `environment.json`: versions, device and command of a run.
pub(crate) fn environment(device: tch::Device, data_root: &Path, matmul: &str, seed: u64) -> Result<Value> {
    let git = |args: &[&str]| {
        let output = std::process::Command::new("git")
            .args(args)
            .output()
            .ok()
            .filter(|output| output.status.success());
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    Ok(json!({
        "talent": env!("CARGO_PKG_VERSION"),
        "git_commit": git(&["rev-parse", "HEAD"]),
        "git_modified": git(&["status", "--porcelain"]).map(|text| !text.is_empty()),
        "libtorch": torch_ext::version()?,
        "device": format!("{device:?}"),
        "cuda_devices": tch::Cuda::device_count(),
        "cpu": cpu_model(),
        "cpu_kernels": torch_ext::cpu_kernels()?,
        "threads": tch::get_num_threads(),
        "seed": seed,
        "matmul_dtype": matmul,
        "data_root": data_root.canonicalize().unwrap_or_else(|_| data_root.to_path_buf()).to_string_lossy(),
        "command": std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect::<Vec<_>>(),
    }))
}
