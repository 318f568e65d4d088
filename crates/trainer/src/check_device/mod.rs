//! `check-device`: checks that everything works on a device, and how fast. The parts run one after another, each in its own
//! process, because a GPU fault makes the process that causes it unusable.

mod batches;
mod graphs;
mod launches;
mod loader;
mod losses;
mod machine;
mod masks;
mod part;
mod recordings;
mod report;
mod runs;
mod speed;
mod steps;
mod supervise;
mod together;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cli_kit::{errln, outln};

use self::part::{Part, Setting, parts};
use self::report::DeviceReport;
use crate::experiment::Machine;
use crate::interrupt::Interrupt;

/// What to check.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct CheckDeviceArgs {
    /// cpu or cuda:N
    #[arg(long, required_unless_present = "list")]
    device: Option<String>,
    /// Smaller networks and fewer repetitions: minutes on two CPU cores
    #[arg(long)]
    quick: bool,
    /// Time limit of all parts together in minutes; parts that have no time left are reported
    #[arg(long, default_value_t = 9.0, allow_negative_numbers = true)]
    minutes: f64,
    /// Folder with recordings of the official code [default: crates/parity/tests/golden of the checkout, or golden of the pack]
    #[arg(long)]
    golden: Option<PathBuf>,
    /// Write the report to this file as JSON; it is replaced by a complete report after every part
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Run only these parts, separated by commas, and those that they need
    #[arg(long, value_delimiter = ',', value_name = "PART")]
    only: Vec<String>,
    /// List the parts
    #[arg(long)]
    list: bool,
    /// Run one part in this process, and write its outcome into the folder of --work
    #[arg(long, hide = true, requires = "work")]
    part: Option<String>,
    /// Folder that the parts share
    #[arg(long, hide = true)]
    work: Option<PathBuf>,
}

/// Runs the parts. The exit code is 0 only if every part passes or is not applicable.
pub(crate) fn check_device(args: &CheckDeviceArgs) -> Result<ExitCode> {
    if args.list {
        for part in parts() {
            outln!("{:24}{}", part.name, part.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let (Some(name), Some(work)) = (&args.part, &args.work) {
        carry_out_here(args, name, work)?;
        return Ok(ExitCode::SUCCESS);
    }
    let chosen = chosen(&args.only)?;
    ensure!(
        (0.0..=MAX_MINUTES).contains(&args.minutes),
        "--minutes {}: it must be 0 to {MAX_MINUTES}",
        args.minutes
    );
    let device = args.device.as_deref().unwrap_or_default();
    ensure!(
        device == "cpu" || device.starts_with("cuda:"),
        "--device {device}: name the device that is to be checked, cpu or cuda:N"
    );
    let mut report = DeviceReport::new(device, chosen.iter().map(|part| part.name).collect());
    let write = |report: &DeviceReport| match &args.json {
        Some(path) => whole_file::write(path, format!("{:#}\n", report.to_json()).as_bytes()),
        None => Ok(()),
    };
    // A file that cannot be written is an error here, rather than after the first part; and the report of an earlier check is gone, even if
    // this one cannot begin.
    write(&report)?;
    // A missing device is an error here, rather than in every part.
    machine_of(device).set_up()?;
    let work = supervise::WorkFolder::create()?;
    let deadline = Instant::now() + Duration::from_secs_f64(args.minutes * 60.0);
    let interrupt = Interrupt::listen()?;
    let mut unwritten = None;
    for part in chosen {
        let done = supervise::carry_out(part, args, work.path(), deadline, &interrupt)?;
        errln!("{:24}{:16}{:>7.1} s  {}", part.name, done.status.name(), done.seconds, done.message);
        report.parts.push(done);
        // The table holds it all the same.
        if let Err(error) = write(&report) {
            errln!("warning: {error}");
            unwritten = Some(error);
        }
        if interrupt.check().is_err() {
            break;
        }
    }
    report.end();
    outln!("{report}");
    if let Err(error) = write(&report) {
        unwritten = Some(error);
    }
    if let Err(interrupted) = interrupt.check() {
        return Ok(interrupted.exit_code());
    }
    if let Some(error) = unwritten {
        return Err(error.into());
    }
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Largest --minutes: a week.
const MAX_MINUTES: f64 = 10_080.0;

fn machine_of(device: &str) -> Machine {
    Machine { device: device.to_owned(), threads: None }
}

fn chosen(only: &[String]) -> Result<Vec<&'static Part>> {
    let all = parts();
    if only.is_empty() {
        return Ok(all.iter().collect());
    }
    let only: Vec<&str> = only.iter().map(|name| name.trim()).collect();
    for name in &only {
        if !all.iter().any(|part| part.name == *name) {
            let names: Vec<&str> = all.iter().map(|part| part.name).collect();
            bail!("--only {name}: there is no such part; there are {}", names.join(", "));
        }
    }
    let needed: Vec<&str> =
        all.iter().filter(|part| only.contains(&part.name)).filter_map(|part| part.needs).collect();
    Ok(all.iter().filter(|part| only.contains(&part.name) || needed.contains(&part.name)).collect())
}

fn carry_out_here(args: &CheckDeviceArgs, name: &str, work: &Path) -> Result<()> {
    let part = parts().iter().find(|part| part.name == name);
    let part = part.with_context(|| format!("--part {name}: there is no such part"))?;
    let device = args.device.as_deref().unwrap_or_default();
    let setting = Setting {
        device: machine_of(device).set_up()?,
        device_name: device.to_owned(),
        quick: args.quick,
        golden: args.golden.clone(),
        work: work.to_path_buf(),
    };
    let outcome = part::outcome(part, &setting);
    Ok(whole_file::write(&supervise::outcome_file(work, part), outcome.to_string().as_bytes())?)
}
