//! `launch`: starts ranks of `talent` on this machine with torchrun's environment variables.

use std::ffi::OsString;
use std::num::ParseIntError;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, anyhow, bail, ensure};
use cli_kit::{errln, outln};
use lexopt::prelude::*;
use ranks::Team;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::forward::build_talent;

pub(crate) const HELP: &str = "\
cargo xtask launch --nproc N [OPTIONS] train|bench ...

  --nproc N             processes on this machine, one a GPU
  --nnodes M            machines; start this command on each of them [default: 1]
  --node-rank K         number of this machine, from 0
  --rdzv HOST:PORT      where all meet: a free port on machine 0 [default: a free port here]
  --nccl                build for GPUs; needs the headers of CUDA and NCCL (docs/distributed.md)
  --timeout SECONDS     how long processes wait for each other [default: 600]

Everything after the options is the command of each process. All processes of a machine share its cores unless
OMP_NUM_THREADS says otherwise.";

#[derive(Debug, PartialEq)]
struct Launch {
    team: Team,
    nccl: bool,
    command: Vec<OsString>,
}

/// Parses the arguments; `None` if help was printed.
fn parse(args: &[OsString]) -> Result<Option<Launch>> {
    if args.is_empty() {
        return Ok(None);
    }
    let (mut team, mut nccl, mut command) = (Team::here(0), false, Vec::new());
    let mut parser = lexopt::Parser::from_args(args);
    while let Some(arg) = parser.next()? {
        match arg {
            Short('h') | Long("help") => return Ok(None),
            Long("nccl") => nccl = true,
            Long("nproc") => team.nproc = number(&mut parser, "--nproc")?,
            Long("nnodes") => team.nnodes = number(&mut parser, "--nnodes")?,
            Long("node-rank") => team.node_rank = number(&mut parser, "--node-rank")?,
            Long("timeout") => team.timeout = Some(number(&mut parser, "--timeout")?),
            Long("rdzv") => team.rdzv = Some(rendezvous(&parser.value()?.string()?)?),
            Value(first) => command = std::iter::once(first).chain(parser.raw_args()?).collect(),
            _ => bail!("{}\n\n{HELP}", arg.unexpected()),
        }
    }
    ensure!(team.nproc > 0, "--nproc says how many processes\n\n{HELP}");
    ensure!(team.nnodes > 0 && team.node_rank < team.nnodes, "--node-rank must be less than --nnodes");
    ensure!(
        team.nnodes == 1 || team.rdzv.is_some(),
        "several machines need --rdzv HOST:PORT, the same on each"
    );
    ensure!(team.timeout != Some(0), "--timeout must be positive");
    ensure!(!command.is_empty(), "no command to launch\n\n{HELP}");
    Ok(Some(Launch { team, nccl, command }))
}

fn number<T: FromStr<Err = ParseIntError>>(parser: &mut lexopt::Parser, name: &str) -> Result<T> {
    let value = parser.value()?.string()?;
    value.parse().map_err(|_| anyhow!("{name} {value}: expected a number"))
}

fn rendezvous(text: &str) -> Result<(String, u16)> {
    let (host, port) = text.rsplit_once(':').with_context(|| format!("--rdzv {text}: expected HOST:PORT"))?;
    let port = port.parse().with_context(|| format!("--rdzv {text}: {port} is not a port"))?;
    Ok((host.to_owned(), port))
}

/// Builds `talent`, starts the ranks and waits for them. The exit code is that of the first rank that failed.
pub(crate) fn launch(args: &[OsString]) -> Result<()> {
    let Some(Launch { team, nccl, command }) = parse(args)? else {
        outln!("{HELP}");
        return Ok(());
    };
    let program = build_talent(if nccl { &["nccl"] } else { &[] })?;
    let signal = listen()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = (cores / team.nproc).max(1).to_string();
    let mut ranks = team.start(|_| {
        let mut process = Command::new(&program);
        process.args(&command);
        for name in ["OMP_NUM_THREADS", "RAYON_NUM_THREADS"] {
            if std::env::var_os(name).is_none() {
                process.env(name, &threads);
            }
        }
        Ok(process)
    })?;
    let failed = ranks.supervise(|| match signal.swap(0, Ordering::Relaxed) {
        0 => None,
        number => Some(number as i32),
    })?;
    match failed {
        None => Ok(()),
        Some((rank, status)) => {
            let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            if let Some(signal) = status.signal() {
                errln!("error: rank {rank} was ended by signal {signal}");
            }
            std::process::exit(code);
        }
    }
}

/// Number of the last SIGINT, SIGTERM or SIGHUP; 0 if there was none.
fn listen() -> Result<Arc<AtomicUsize>> {
    let signal = Arc::new(AtomicUsize::new(0));
    let signals = [SIGINT, SIGTERM, SIGHUP];
    for number in signals.into_iter().filter(|&number| !cli_kit::is_ignored(number)) {
        signal_hook::flag::register_usize(number, Arc::clone(&signal), number as usize)
            .context("listening for signals")?;
    }
    Ok(signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Launch> {
        let args: Vec<OsString> = text.split_whitespace().map(Into::into).collect();
        parse(&args).map(|launch| launch.expect("not the help"))
    }

    #[test]
    fn options_end_where_the_command_begins() {
        let launch =
            parsed("--nproc 4 --nccl --nnodes=2 --node-rank 1 --rdzv h:29 --timeout 60 train --set a=1")
                .unwrap();
        let command = ["train", "--set", "a=1"].map(OsString::from).to_vec();
        let team = Team {
            nproc: 4,
            nnodes: 2,
            node_rank: 1,
            rdzv: Some(("h".into(), 29)),
            first_device: 0,
            timeout: Some(60),
        };
        assert_eq!(launch, Launch { team, nccl: true, command });
    }

    #[test]
    fn mistakes_are_named() {
        for (text, named) in [
            ("train", "--nproc"),
            ("--nproc 2", "no command"),
            ("--nproc x train", "--nproc x"),
            ("--nproc 2 --nnodes 2 train", "--rdzv"),
            ("--nproc 2 --nnodes 2 --node-rank 2 --rdzv h:1 train", "--node-rank"),
            ("--nproc 2 --rdzv h train", "HOST:PORT"),
            ("--nproc 2 --timeout 0 train", "--timeout"),
            ("--nproc 2 --what 1 train", "--what"),
        ] {
            let error = format!("{:#}", parsed(text).unwrap_err());
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
