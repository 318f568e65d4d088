//! One training run of an ablation.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use run_files::Metrics;
use rustix::process::{Pid, Signal, kill_process};

use super::AblateArgs;
use super::plan::Plan;
use crate::config::{Config, differences};
use crate::interrupt::Interrupt;
use crate::launcher::this_launcher;

/// A row with a seed.
#[derive(Debug)]
pub(super) struct Cell {
    pub(super) row: String,
    pub(super) seed: u64,
    /// Everything over the plan's preset or config.
    pub(super) overrides: Vec<String>,
    pub(super) run_dir: PathBuf,
    /// Its config, but for the seed.
    pub(super) cfg: Config,
}

/// Who trains cells, one after the other.
#[derive(Debug)]
pub(super) struct Worker<'a> {
    pub(super) plan: &'a Plan,
    pub(super) args: &'a AblateArgs,
    pub(super) device: String,
    /// Number of the first of the devices of several processes.
    pub(super) first_device: usize,
    pub(super) threads: Option<usize>,
    pub(super) interrupt: &'a Interrupt,
}

/// How a cell ended.
#[derive(Debug)]
pub(super) enum Outcome {
    Done { miou: f64, nta_mass: Option<f64>, seconds: f64 },
    Failed(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done { miou, nta_mass, seconds } => {
                write!(f, "mIoU {miou:.2}")?;
                if let Some(mass) = nta_mass {
                    write!(f, "  NTA mass {mass:.2}")?;
                }
                write!(f, "  ({seconds:.0} s)")
            }
            Self::Failed(why) => write!(f, "failed: {why}"),
        }
    }
}

/// Waits for a cell. A signal that reaches this process alone is passed on, so that the cell saves its step and ends too.
fn wait(mut child: Child, interrupt: &Interrupt) -> Result<ExitStatus> {
    let mut told = false;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if !told && interrupt.check().is_err() {
            told = true;
            // Fails only if it has just ended by itself.
            let _ = kill_process(Pid::from_child(&child), Signal::TERM);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The processes besides the first that train a cell. They end with it; whatever is left then is ended here.
struct Others(Vec<Child>);

impl Others {
    /// Starts ranks 1 and up of a command, and leaves it to be started as rank 0.
    fn start(command: &mut Command, nproc: usize, first_device: usize) -> Result<Self> {
        let mut others = Self(Vec::new());
        if nproc == 1 {
            return Ok(others);
        }
        let free = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let (variable, launcher) = this_launcher();
        command
            .env("WORLD_SIZE", nproc.to_string())
            .env("MASTER_ADDR", "127.0.0.1")
            .env("MASTER_PORT", free.context("looking for a free port")?.port().to_string())
            .env(variable, launcher);
        for rank in (0..nproc).rev() {
            command.env("RANK", rank.to_string()).env("LOCAL_RANK", (first_device + rank).to_string());
            if rank > 0 {
                // What they have to say, rank 0 says too.
                others.0.push(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
            }
        }
        Ok(others)
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Cell {
    pub(super) fn name(&self) -> String {
        format!("{}, seed {}", self.row, self.seed)
    }

    pub(super) fn is_finished(&self) -> bool {
        Metrics::file(&self.run_dir).is_file()
    }

    /// Refuses a folder that holds a run with another config, which a table would mix up with this one's.
    pub(super) fn check_unchanged(&self) -> Result<()> {
        let file = self.run_dir.join("config.toml");
        let Ok(text) = std::fs::read_to_string(&file) else { return Ok(()) };
        let found: Config = toml::from_str(&text).with_context(|| file.display().to_string())?;
        let changed = differences(&found, &self.seeded())?;
        ensure!(
            changed.is_empty(),
            "{}: it holds a run with another config ({}); choose another --runs-dir, or remove it",
            self.run_dir.display(),
            changed.join("; ")
        );
        Ok(())
    }

    fn seeded(&self) -> Config {
        Config { seed: self.seed, ..self.cfg.clone() }
    }

    /// Trains it to the end, from where an earlier try left off.
    pub(super) fn run(&self, on: &Worker<'_>) -> Outcome {
        let started = Instant::now();
        match self.train(on).and_then(|()| self.final_metrics()) {
            Ok((miou, nta_mass)) => {
                Outcome::Done { miou, nta_mass, seconds: started.elapsed().as_secs_f64() }
            }
            Err(error) => Outcome::Failed(format!("{error:#}")),
        }
    }

    fn train(&self, on: &Worker<'_>) -> Result<()> {
        let Worker { plan, args, device, threads, interrupt, .. } = on;
        std::fs::create_dir_all(&self.run_dir).with_context(|| self.run_dir.display().to_string())?;
        let cell = run_files::Cell {
            ablation: plan.name.clone(),
            row: self.row.clone(),
            seed: self.seed,
            set: self.overrides.clone(),
        };
        cell.write(&self.run_dir)?;
        let log = self.run_dir.join("log.txt");
        let file = File::create(&log).with_context(|| log.display().to_string())?;
        let mut command = Command::new(std::env::current_exe().context("where this program is")?);
        command.stdin(Stdio::null()).args([
            "train",
            "--resume",
            "auto",
            "--device",
            device,
            "--seed",
            &self.seed.to_string(),
        ]);
        command.arg("--run-dir").arg(&self.run_dir).arg("--data-root").arg(&args.data_root);
        for (flag, value) in
            [("--preset", &plan.preset), ("--config", &plan.config), ("--dataset", &plan.dataset)]
        {
            if let Some(value) = value {
                command.args([flag, value]);
            }
        }
        if !self.overrides.is_empty() {
            command.arg("--set").args(&self.overrides);
        }
        if let Some(threads) = threads {
            command.args(["--threads", &threads.to_string()]);
        }
        if let Some(steps) = args.max_steps {
            command.args(["--max-steps", &steps.to_string()]);
        }
        if args.recompute {
            command.arg("--recompute");
        }
        let file_again = file.try_clone().with_context(|| log.display().to_string())?;
        let others = Others::start(&mut command, args.nproc, on.first_device)?;
        let child = command.stdout(file_again).stderr(file).spawn()?;
        let status = wait(child, interrupt)?;
        drop(others);
        let last_line = || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
        };
        ensure!(
            status.success(),
            "{}",
            match last_line() {
                line if line.is_empty() => status.to_string(),
                line => line,
            }
        );
        Ok(())
    }

    /// mIoU and NTA mass of the validation split of the first data set.
    fn final_metrics(&self) -> Result<(f64, Option<f64>)> {
        let metrics = Metrics::read(&self.run_dir)?;
        let val = metrics.val().with_context(|| {
            format!("{}: it has no validation split", Metrics::file(&self.run_dir).display())
        })?;
        Ok((val.all.segmentation.miou, val.all.nta.nta_mass))
    }
}

/// What the finished cells gave so far: means over seeds, a line a row.
pub(super) fn table(cells: &[Cell]) -> String {
    let mut rows: Vec<&str> = cells.iter().map(|cell| cell.row.as_str()).collect();
    let mut seen = std::collections::BTreeSet::new();
    rows.retain(|row| seen.insert(*row));
    let mut found: BTreeMap<&str, Vec<(f64, Option<f64>)>> = BTreeMap::new();
    for cell in cells {
        if let Ok(metrics) = cell.final_metrics() {
            found.entry(&cell.row).or_default().push(metrics);
        }
    }
    let width = rows.iter().map(|row| row.chars().count()).max().unwrap_or(0).max(4);
    let mut lines =
        vec![format!("{:width$}  {:>5}  {:>8}  {:>12}", "row", "seeds", "val mIoU", "val NTA mass")];
    for row in rows {
        let metrics = found.get(row).map_or(&[][..], Vec::as_slice);
        let mean = |values: Vec<f64>| match values.len() {
            0 => "-".to_owned(),
            n => format!("{:.2}", values.iter().sum::<f64>() / n as f64),
        };
        lines.push(format!(
            "{row:width$}  {:>5}  {:>8}  {:>12}",
            metrics.len(),
            mean(metrics.iter().map(|(miou, _)| *miou).collect()),
            mean(metrics.iter().filter_map(|(_, mass)| *mass).collect())
        ));
    }
    lines.join("\n")
}
