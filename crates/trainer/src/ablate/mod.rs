//! `ablate`: trains every row of a plan with every seed, each in its own process and run folder.

mod cell;
mod plan;

use std::collections::{BTreeSet, VecDeque};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use cli_kit::{errln, outln};
use command_kit::Live;
use run_files::{Ablation, Row};

use crate::ablate::cell::{Cell, Outcome, Worker};
use crate::ablate::plan::{AblationPlan, AxisMode, folder_name};
use crate::config::{self, Config, MAX_SEED, Source};
use crate::experiment::Machine;
use crate::interrupt::Interrupt;
use crate::pretrain::{ensure_current, pretrain};
use crate::step::can_recompute;
use crate::train::{SharedFlags, tell_processors};

#[derive(Debug, Args)]
pub(crate) struct AblateArgs {
    /// Plan: quick, paper, beyond, tuning, objectives, confirm, causes, confirm-rca, shifted, or a TOML file [default: quick]
    #[arg(long, conflicts_with = "axis")]
    plan: Option<String>,
    /// Axes to vary, instead of a plan: rca, rca-adapter, rca-neck, cpcl, tccl, gate, text-adapters, or a config key
    /// with its values, base value first (loss.cpcl=0,0.1,1 or model.image.adapter_blocks=[1,3],[1,3,5])
    #[arg(long, num_args = 1..)]
    axis: Vec<String>,
    /// How axes are combined into rows [default: grid]
    #[arg(long, requires = "axis")]
    mode: Option<AxisMode>,
    /// Preset of every cell, instead of the plan's [default with --axis: testbed, whose data and encoders are made first]
    #[arg(long, conflicts_with = "config")]
    preset: Option<String>,
    /// Config of every cell, instead of the plan's
    #[arg(long)]
    config: Option<String>,
    /// Data set of every cell, instead of the config's
    #[arg(long)]
    dataset: Option<String>,
    /// Config overrides for every cell
    #[arg(long = "set", value_name = "KEY=VALUE", num_args = 1..)]
    overrides: Vec<String>,
    /// Seeds, separated by commas, instead of the plan's; 10-12 stands for 10,11,12
    #[arg(long, value_delimiter = ',', value_parser = seed_range)]
    seeds: Vec<RangeInclusive<u64>>,
    /// Train only this row of the plan; may be given several times
    #[arg(long = "row", value_name = "NAME")]
    only: Vec<String>,
    /// Folder for the cells' runs [default: runs/ablate-NAME]
    #[arg(long)]
    runs_dir: Option<PathBuf>,
    #[command(flatten)]
    shared: SharedFlags,
    /// Cells to train in parallel [default: as many as the CUDA devices allow, otherwise one]
    #[arg(long)]
    jobs: Option<usize>,
    /// Processes that train one cell together, each on its own CUDA device if there is one
    #[arg(long, value_name = "N", default_value_t = 1)]
    nproc: usize,
    /// List the cells and whether they are finished, without training any
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    machine: Machine,
}

pub(crate) fn ablate(args: &AblateArgs) -> Result<()> {
    let plan = plan_of(args)?;
    let rows = plan.rows()?;
    ensure!(
        (1..=MAX_PROCESSES).contains(&args.nproc),
        "--nproc {}: it must be 1 to {MAX_PROCESSES}",
        args.nproc
    );
    ensure!(args.jobs != Some(0), "--jobs must be positive");
    args.shared.check()?;
    let runs_dir =
        args.runs_dir.clone().unwrap_or_else(|| PathBuf::from("runs").join(format!("ablate-{}", plan.name)));
    let cells = cells_of(&plan, &rows, args, &runs_dir)?;
    check_rows_differ(&cells)?;
    let cells = of_rows(cells, &args.only)?;
    for cell in &cells {
        if args.shared.recompute {
            can_recompute(&cell.cfg.loss).with_context(|| format!("row `{}`", cell.row))?;
        }
        cell.check_unchanged()?;
    }
    check_rows_before(&runs_dir, &rows)?;
    let mut todo = VecDeque::new();
    for cell in &cells {
        let is_finished = cell.is_finished(args.shared.max_steps)?;
        if args.dry_run {
            outln!("{:40} {}", cell.name(), if is_finished { "finished" } else { "to do" });
        }
        if !is_finished {
            todo.push_back(cell);
        }
    }
    if args.dry_run {
        return Ok(());
    }
    prepare(&cells, args)?;
    write_plan(&runs_dir, &plan, &rows)?;
    run_all(&plan, args, (&cells, todo), &runs_dir)
}

/// Maximum number of seeds in a range: more is a mistake, and would fill the memory.
const MAX_SEEDS: u64 = 1000;

/// Reads `10` or `10-12`.
fn seed_range(text: &str) -> Result<RangeInclusive<u64>, String> {
    let seed = |text: &str| match text.trim().parse::<u64>() {
        Ok(seed) if seed <= MAX_SEED => Ok(seed),
        _ => Err(format!("`{text}` is no seed: 0 to {MAX_SEED}, or a range as in 10-12")),
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (seed(first)?, seed(last)?);
    match first <= last && last - first < MAX_SEEDS {
        true => Ok(first..=last),
        false => Err(format!("{first}-{last}: a range is of 1 to {MAX_SEEDS} seeds, the smallest first")),
    }
}

/// Loads the plan and applies the command line to it.
fn plan_of(args: &AblateArgs) -> Result<AblationPlan> {
    let mut plan = match args.axis.as_slice() {
        [] => AblationPlan::load(args.plan.as_deref().unwrap_or("quick"))?,
        axes => AblationPlan::of_axes(axes, args.mode.unwrap_or_default())?,
    };
    if args.preset.is_some() || args.config.is_some() {
        (plan.preset, plan.config) = (args.preset.clone(), args.config.clone());
    }
    if plan.preset.is_none() && plan.config.is_none() {
        plan.preset = Some("testbed".into());
    }
    plan.dataset = args.dataset.clone().or(plan.dataset);
    plan.set.extend(args.overrides.iter().cloned());
    if !args.seeds.is_empty() {
        plan.seeds = args.seeds.iter().cloned().flatten().collect();
    }
    Ok(plan)
}

/// All cells: every row with every seed. Seeds are the outer loop, so after an interruption the finished seeds have all
/// their rows.
fn cells_of(plan: &AblationPlan, rows: &[Row], args: &AblateArgs, runs_dir: &Path) -> Result<Vec<Cell>> {
    let mut cells = Vec::new();
    for &seed in &plan.seeds {
        for row in rows {
            let overrides = [plan.set.clone(), row.set.clone()].concat();
            let source = Source {
                base: None,
                preset: plan.preset.clone(),
                config: plan.config.clone(),
                dataset: plan.dataset.clone(),
                overrides: overrides.clone(),
                data_root: args.shared.data_root().to_path_buf(),
            };
            let cfg = config::load(&source).with_context(|| format!("row `{}`", row.name))?;
            cells.push(Cell {
                row: row.name.clone(),
                seed,
                overrides,
                run_dir: runs_dir.join(folder_name(&row.name)).join(format!("seed-{seed}")),
                cfg,
            });
        }
    }
    Ok(cells)
}

/// The cells of some rows; all cells if none is named.
fn of_rows(mut cells: Vec<Cell>, only: &[String]) -> Result<Vec<Cell>> {
    for name in only {
        let known = || cells.iter().map(|cell| format!("`{}`", cell.row)).collect::<BTreeSet<_>>();
        ensure!(
            cells.iter().any(|cell| cell.row == *name),
            "--row: the plan has no row `{name}`, but {}",
            known().into_iter().collect::<Vec<_>>().join(", ")
        );
    }
    cells.retain(|cell| only.is_empty() || only.contains(&cell.row));
    Ok(cells)
}

/// Returns an error if two rows train the same network in the same way, such as adapters of two kinds with a method of tuning that
/// has no adapters.
fn check_rows_differ(cells: &[Cell]) -> Result<()> {
    let effective = |cell: &Cell| Config { model: cell.cfg.model.without_unused(), ..cell.cfg.clone() };
    for (place, cell) in cells.iter().enumerate() {
        let twin = cells[..place].iter().find(|other| {
            let is_row = other.seed == cell.seed && other.row != cell.row;
            // Rows that are written alike are the user's own choice.
            is_row && other.cfg != cell.cfg && effective(other) == effective(cell)
        });
        if let Some(twin) = twin {
            bail!(
                "the rows `{}` and `{}` are the same run: they differ in nothing that model.tuning={} uses",
                twin.row,
                cell.row,
                serde_json::to_value(cell.cfg.model.tuning)?.as_str().unwrap_or_default()
            );
        }
    }
    Ok(())
}

/// Returns an error if the folder holds an ablation with rows that this one lacks, or whose rows cannot be read.
fn check_rows_before(runs_dir: &Path, rows: &[Row]) -> Result<()> {
    let before = Ablation::read(runs_dir).context("mend it, or remove it and it is written anew")?;
    let lost = before.iter().flat_map(|before| &before.rows).find(|row| !rows.contains(row));
    ensure!(
        lost.is_none(),
        "{}: it holds an ablation with other rows (`{}`), which its tables would mix up with these; choose another --runs-dir",
        runs_dir.display(),
        lost.map_or("", |row| row.name.as_str())
    );
    Ok(())
}

/// Makes what cells share before parallel cells need it: generated data, and encoders that `pretrain` can make.
fn prepare(cells: &[Cell], args: &AblateArgs) -> Result<()> {
    let mut names: Vec<&String> = cells.iter().flat_map(|cell| &cell.cfg.data.datasets).collect();
    names.sort();
    names.dedup();
    for name in names {
        command_kit::open(name, args.shared.data_root())?;
    }
    let testbed = config::Config::testbed();
    for cell in cells {
        // `pretrain` makes only the testbed's encoders; the user provides all others.
        let makes = cell.cfg.weights == testbed.weights;
        if makes {
            ensure_current(&cell.cfg)?;
        }
        if makes && !Path::new(&cell.cfg.weights.image).is_file() {
            pretrain(&cell.cfg, &args.machine, args.shared.data_root(), false)?;
        }
    }
    Ok(())
}

/// Writes a record of the ablation for its tables, with the order of the rows and the baseline.
fn write_plan(runs_dir: &Path, plan: &AblationPlan, rows: &[Row]) -> Result<()> {
    std::fs::create_dir_all(runs_dir).with_context(|| runs_dir.display().to_string())?;
    let ablation = Ablation {
        name: plan.name.clone(),
        baseline: plan.baseline.clone().unwrap_or_else(|| rows[0].name.clone()),
        rows: rows.to_vec(),
        seeds: plan.seeds.clone(),
        preset: plan.preset.clone(),
        config: plan.config.clone(),
        dataset: plan.dataset.clone(),
        set: plan.set.clone(),
    };
    Ok(ablation.write(runs_dir)?)
}

/// Maximum number of processes that train a cell on one machine.
const MAX_PROCESSES: usize = 256;

/// How cells are distributed over devices and worker threads.
#[derive(Clone, Copy)]
struct Machines {
    n_cuda: usize,
    /// Whether cells are spread over all CUDA devices.
    on_all_devices: bool,
    /// Number of cells that train in parallel.
    jobs: usize,
}

impl Machines {
    fn new(args: &AblateArgs, n_cells: usize) -> Self {
        let n_cuda = if tch::Cuda::is_available() { tch::Cuda::device_count().max(0) as usize } else { 0 };
        let on_all_devices = args.machine.device == "auto" && n_cuda > 1;
        let jobs = args.jobs.unwrap_or(if on_all_devices { (n_cuda / args.nproc).max(1) } else { 1 });
        Self { n_cuda, on_all_devices, jobs: jobs.min(n_cells.max(1)) }
    }

    fn worker<'a>(
        &self,
        index: usize,
        plan: &'a AblationPlan,
        args: &'a AblateArgs,
        interrupt: &'a Interrupt,
    ) -> Worker<'a> {
        let device = if self.on_all_devices && args.nproc == 1 {
            format!("cuda:{}", index % self.n_cuda)
        } else {
            args.machine.device.clone()
        };
        let threads = self.threads(args);
        Worker { plan, args, device, first_device: index * args.nproc, threads, interrupt }
    }

    /// Threads of each process; `None` for one per core. Cells that train in parallel share the CPU cores.
    fn threads(&self, args: &AblateArgs) -> Option<usize> {
        let n_processes = self.jobs * args.nproc;
        args.machine.threads.or((n_processes > 1).then(|| (cores() / n_processes).max(1)))
    }

    /// Threads of all processes together.
    fn n_threads(&self, args: &AblateArgs) -> usize {
        self.threads(args).map_or_else(cores, |threads| threads * self.jobs * args.nproc)
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Trains the unfinished cells.
///
/// - cells: all cells, and those that are not finished
fn run_all(
    plan: &AblationPlan,
    args: &AblateArgs,
    (cells, todo): (&[Cell], VecDeque<&Cell>),
    runs_dir: &Path,
) -> Result<()> {
    let machines = Machines::new(args, cells.len());
    let n_todo = todo.len();
    errln!(
        "{}: {} cells ({} rows, {} seeds), {} of them finished already",
        runs_dir.display(),
        cells.len(),
        cells.len() / plan.seeds.len(),
        plan.seeds.len(),
        cells.len() - n_todo
    );
    tell_processors(machines.n_threads(args));
    let interrupt = Interrupt::listen()?;
    let started = Instant::now();
    let live = Live::new(|| cell::table(cells));
    let queue = Mutex::new(todo);
    let outcomes: Mutex<Vec<(&Cell, Outcome)>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for worker in 0..machines.jobs {
            let (queue, outcomes, live, interrupt) = (&queue, &outcomes, &live, &interrupt);
            scope.spawn(move || {
                let on = machines.worker(worker, plan, args, interrupt);
                let take = || queue.lock().ok().and_then(|mut queue| queue.pop_front());
                while let (Ok(()), Some(cell)) = (interrupt.check(), take()) {
                    let outcome = cell.run(&on);
                    let Ok(mut outcomes) = outcomes.lock() else { return };
                    let (done, minutes) = (outcomes.len() + 1, started.elapsed().as_secs_f64() / 60.0);
                    // Workers finish a cell each in about the same time.
                    let rounds = |cells: usize| cells as f64 / machines.jobs as f64;
                    let left = minutes / rounds(done).ceil() * rounds(n_todo - done);
                    live.line(&format!(
                        "{done}/{n_todo}  {minutes:.1} min, {left:.0} left  {}: {outcome}",
                        cell.name()
                    ));
                    live.show(|| cell::table(cells));
                    outcomes.push((cell, outcome));
                }
            });
        }
    });
    drop(live);
    outln!("{}", cell::table(cells));
    if let Err(interrupted) = interrupt.check() {
        errln!("interrupted; the same command goes on with it");
        return Err(interrupted.into());
    }
    report_failures(&outcomes.into_inner().unwrap_or_default(), cells.len())
}

fn report_failures(outcomes: &[(&Cell, Outcome)], n_cells: usize) -> Result<()> {
    let failed: Vec<String> = outcomes
        .iter()
        .filter(|(_, outcome)| matches!(outcome, Outcome::Failed(_)))
        .map(|(cell, _)| cell.name())
        .collect();
    ensure!(
        failed.is_empty(),
        "{} of {n_cells} cells failed: {}; their log.txt says why, and the same command tries them again",
        failed.len(),
        failed.join("; ")
    );
    Ok(())
}
