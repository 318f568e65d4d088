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

use anyhow::{Context, Result, bail};
use cli_kit::{errln, outln};

use self::part::{Part, Setting, Status, parts};
use self::report::DeviceReport;
use crate::experiment::Machine;

/// What to check.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct CheckDeviceArgs {
    /// cpu or cuda:N
    #[arg(long)]
    device: String,
    /// Smaller networks and fewer repetitions: minutes on two CPU cores
    #[arg(long)]
    quick: bool,
    /// Time limit of all parts together in minutes; parts that have no time left are reported
    #[arg(long, default_value_t = 9.0)]
    minutes: f64,
    /// Folder with recordings of the official code [default: crates/parity/tests/golden of the checkout, or golden of the pack]
    #[arg(long)]
    golden: Option<PathBuf>,
    /// Write the report to this file as JSON; it is replaced by a complete report after every part
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Run only these parts, separated by commas
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
    // A missing device is an error here, rather than in every part.
    machine_of(&args.device).set_up()?;
    let work = supervise::WorkFolder::create()?;
    let deadline = Instant::now() + Duration::try_from_secs_f64(args.minutes * 60.0).context("--minutes")?;
    let mut report = DeviceReport::new(&args.device);
    let write = |report: &DeviceReport| match &args.json {
        Some(path) => whole_file::write(path, format!("{:#}\n", report.to_json()).as_bytes()),
        None => Ok(()),
    };
    // A file that cannot be written is an error here, rather than after the first part.
    write(&report)?;
    for part in chosen {
        let done = supervise::carry_out(part, args, work.path(), deadline)?;
        errln!("{:24}{:16}{:>7.1} s  {}", part.name, done.status.name(), done.seconds, done.message);
        report.parts.push(done);
        write(&report)?;
    }
    outln!("{report}");
    let good = report.parts.iter().all(|part| matches!(part.status, Status::Passed | Status::NotApplicable));
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn machine_of(device: &str) -> Machine {
    Machine { device: device.to_owned(), threads: None }
}

fn chosen(only: &[String]) -> Result<Vec<&'static Part>> {
    let all = parts();
    if only.is_empty() {
        return Ok(all.iter().collect());
    }
    for name in only {
        if !all.iter().any(|part| part.name == *name) {
            let names: Vec<&str> = all.iter().map(|part| part.name).collect();
            bail!("--only {name}: there is no such part; there are {}", names.join(", "));
        }
    }
    Ok(all.iter().filter(|part| only.iter().any(|name| part.name == *name)).collect())
}

fn carry_out_here(args: &CheckDeviceArgs, name: &str, work: &Path) -> Result<()> {
    let [part] = chosen(&[name.to_owned()])?[..] else { bail!("--part {name}: there is no such part") };
    let setting = Setting {
        device: machine_of(&args.device).set_up()?,
        device_name: args.device.clone(),
        quick: args.quick,
        golden: args.golden.clone(),
        work: work.to_path_buf(),
    };
    let outcome = part::outcome(part, &setting);
    Ok(whole_file::write(&supervise::outcome_file(work, part), outcome.to_string().as_bytes())?)
}
