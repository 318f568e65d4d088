//! One training run of an ablation.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use ranks::{Ranks, Team};
use run_files::Metrics;
use signal_hook::consts::SIGTERM;

use super::AblateArgs;
use super::plan::AblationPlan;
use crate::config::{Config, differences};
use crate::interrupt::Interrupt;
use crate::run_dir::RunLock;

/// One run of an ablation: a row of the plan with one seed.
#[derive(Debug)]
pub(super) struct Cell {
    pub(super) row: String,
    pub(super) seed: u64,
    /// All overrides (`KEY=VALUE`) of the plan's preset or config.
    pub(super) overrides: Vec<String>,
    pub(super) run_dir: PathBuf,
    /// The cell's config, except that `seed` above replaces its seed.
    pub(super) cfg: Config,
}

/// What a worker thread needs to train cells one after another.
#[derive(Debug)]
pub(super) struct Worker<'a> {
    pub(super) plan: &'a AblationPlan,
    pub(super) args: &'a AblateArgs,
    pub(super) device: String,
    /// Index of the first device when several processes train a cell together.
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

impl Cell {
    pub(super) fn name(&self) -> String {
        format!("{}, seed {}", self.row, self.seed)
    }

    /// Whether the cell has been trained up to `max_steps`.
    ///
    /// - max_steps: optimiser step at which training ends; `None` for all epochs of the config
    ///
    /// # Errors
    /// When it has been trained further: a table would mix it with shorter runs.
    pub(super) fn is_finished(&self, max_steps: Option<u64>) -> Result<bool> {
        // Missing or unreadable metrics: training continues and writes them.
        let Ok(metrics) = Metrics::read(&self.run_dir) else { return Ok(false) };
        let cell = run_files::Cell::read(&self.run_dir).ok().flatten();
        let before = cell.map_or(Some(metrics.step), |cell| cell.max_steps);
        let shown = |steps: Option<u64>| steps.map_or("its end".to_owned(), |steps| format!("step {steps}"));
        ensure!(
            max_steps.is_none_or(|asked| before.is_some_and(|before| before <= asked)),
            "{}: it was trained to {}, and this ablation ends at {}; choose another --runs-dir, or remove it",
            self.run_dir.display(),
            shown(before),
            shown(max_steps)
        );
        Ok(before == max_steps)
    }

    /// Returns an error if the run folder holds a run with a different config; a table would mix the two.
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

    /// Trains the cell to the end, resuming an earlier attempt if there is one.
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
        // Another ablation may train this cell, or a process of one that was killed.
        let _lock = RunLock::take_as(&self.run_dir, "cell.lock")?;
        drop(RunLock::take(&self.run_dir)?);
        let cell = run_files::Cell {
            ablation: on.plan.name.clone(),
            row: self.row.clone(),
            seed: self.seed,
            set: self.overrides.clone(),
            max_steps: on.args.shared.max_steps,
        };
        // The metrics of a shorter ablation keep their cell until there are new ones.
        if Metrics::read(&self.run_dir).is_err() {
            cell.write(&self.run_dir)?;
        }
        self.train_alone(on)?;
        Ok(cell.write(&self.run_dir)?)
    }

    /// Runs the cell's training processes to their end.
    fn train_alone(&self, on: &Worker<'_>) -> Result<()> {
        let log = self.run_dir.join("log.txt");
        let file = File::create(&log).with_context(|| log.display().to_string())?;
        let program = std::env::current_exe().context("where this program is")?;
        let process = |rank: usize| -> std::io::Result<Command> {
            let mut command = Command::new(&program);
            command.stdin(Stdio::null()).args(self.arguments(on));
            match rank {
                0 => command.stdout(file.try_clone()?).stderr(file.try_clone()?),
                // Rank 0 prints everything that the other ranks would print.
                _ => command.stdout(Stdio::null()).stderr(Stdio::null()),
            };
            Ok(command)
        };
        let mut ranks = match on.args.nproc {
            1 => Ranks::from(process(0)?.spawn()?),
            nproc => Team { first_device: on.first_device, ..Team::here(nproc) }.start(process)?,
        };
        // Forward a signal that only this process received, so that the cell saves its step and ends too.
        let mut forwarded = false;
        let failed = ranks.supervise(|| {
            let asked = !forwarded && on.interrupt.check().is_err();
            forwarded |= asked;
            asked.then_some(SIGTERM)
        })?;
        let Some((_, status)) = failed else { return Ok(()) };
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        match text.lines().last().unwrap_or_default().trim_start_matches("error: ") {
            "" => bail!("{status}"),
            line => bail!("{line}"),
        }
    }

    /// Command-line arguments of the cell's training processes.
    fn arguments(&self, on: &Worker<'_>) -> Vec<OsString> {
        let Worker { plan, args, device, threads, .. } = on;
        let mut all: Vec<OsString> =
            ["train", "--resume", "auto", "--device", device, "--seed"].map(Into::into).to_vec();
        all.push(self.seed.to_string().into());
        all.extend(["--run-dir".into(), self.run_dir.clone().into()]);
        for (flag, value) in
            [("--preset", &plan.preset), ("--config", &plan.config), ("--dataset", &plan.dataset)]
        {
            all.extend(value.iter().flat_map(|value| [flag.into(), value.into()]));
        }
        if !self.overrides.is_empty() {
            all.push("--set".into());
            all.extend(self.overrides.iter().map(Into::into));
        }
        if let Some(threads) = threads {
            all.extend(["--threads".into(), threads.to_string().into()]);
        }
        all.extend(args.shared.arguments());
        all
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

/// Table of the results so far: means over the finished seeds, one line per row.
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
