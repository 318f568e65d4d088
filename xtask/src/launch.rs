//! Several processes of `talent` on this machine, each told who it is through the environment that torchrun uses too.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::TcpListener;
use std::num::ParseIntError;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use cli_kit::{errln, outln};

use lexopt::prelude::*;
use rustix::process::{Pid, Signal, kill_process};
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

/// How long the others have to say who is at fault and to end by themselves, once one has ended badly.
const GRACE: Duration = Duration::from_secs(30);

#[derive(Debug, PartialEq)]
struct Plan {
    nproc: usize,
    nnodes: usize,
    node_rank: usize,
    rdzv: Option<(String, u16)>,
    timeout: Option<u64>,
    nccl: bool,
    command: Vec<OsString>,
}

/// `None` for the help.
fn parse(args: &[OsString]) -> Result<Option<Plan>> {
    let mut plan = Plan {
        nproc: 0,
        nnodes: 1,
        node_rank: 0,
        rdzv: None,
        timeout: None,
        nccl: false,
        command: Vec::new(),
    };
    if args.is_empty() {
        return Ok(None);
    }
    let mut parser = lexopt::Parser::from_args(args);
    while let Some(arg) = parser.next()? {
        match arg {
            Short('h') | Long("help") => return Ok(None),
            Long("nccl") => plan.nccl = true,
            Long("nproc") => plan.nproc = number(&mut parser, "--nproc")?,
            Long("nnodes") => plan.nnodes = number(&mut parser, "--nnodes")?,
            Long("node-rank") => plan.node_rank = number(&mut parser, "--node-rank")?,
            Long("timeout") => plan.timeout = Some(number(&mut parser, "--timeout")?),
            Long("rdzv") => plan.rdzv = Some(rendezvous(&parser.value()?.string()?)?),
            Value(first) => plan.command = std::iter::once(first).chain(parser.raw_args()?).collect(),
            _ => bail!("{}\n\n{HELP}", arg.unexpected()),
        }
    }
    ensure!(plan.nproc > 0, "--nproc says how many processes\n\n{HELP}");
    ensure!(plan.nnodes > 0 && plan.node_rank < plan.nnodes, "--node-rank must be less than --nnodes");
    ensure!(
        plan.nnodes == 1 || plan.rdzv.is_some(),
        "several machines need --rdzv HOST:PORT, the same on each"
    );
    ensure!(plan.timeout != Some(0), "--timeout must be positive");
    ensure!(!plan.command.is_empty(), "no command to launch\n\n{HELP}");
    Ok(Some(plan))
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

/// Builds `talent`, starts the processes, and waits for them. Exits as the first of them that failed.
pub(crate) fn launch(args: &[OsString]) -> Result<()> {
    let Some(plan) = parse(args)? else {
        outln!("{HELP}");
        return Ok(());
    };
    let program = build_talent(if plan.nccl { &["nccl"] } else { &[] })?;
    let signal = listen()?;
    let mut children = start(&plan, &program)?;
    let failed = supervise(&mut children, &signal)?;
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

/// The last SIGINT, SIGTERM or SIGHUP, 0 for none.
fn listen() -> Result<Arc<AtomicUsize>> {
    let signal = Arc::new(AtomicUsize::new(0));
    let signals = [SIGINT, SIGTERM, SIGHUP];
    for number in signals.into_iter().filter(|&number| !cli_kit::is_ignored(number)) {
        signal_hook::flag::register_usize(number, Arc::clone(&signal), number as usize)
            .context("listening for signals")?;
    }
    Ok(signal)
}

/// The processes by rank. If one cannot be started, none is left.
fn start(plan: &Plan, program: &std::path::Path) -> Result<Children> {
    let (host, port) = match &plan.rdzv {
        Some(rdzv) => rdzv.clone(),
        None => {
            let free = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
            ("127.0.0.1".to_owned(), free.context("looking for a free port")?.port())
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = (cores / plan.nproc).max(1).to_string();
    let mut children = Children(BTreeMap::new());
    for local_rank in 0..plan.nproc {
        let rank = plan.node_rank * plan.nproc + local_rank;
        let mut command = Command::new(program);
        command
            .args(&plan.command)
            .env("RANK", rank.to_string())
            .env("WORLD_SIZE", (plan.nnodes * plan.nproc).to_string())
            .env("LOCAL_RANK", local_rank.to_string())
            .env("MASTER_ADDR", &host)
            .env("MASTER_PORT", port.to_string())
            // Should this process be killed, none of them is left behind.
            .env("TALENT_LAUNCHER", std::process::id().to_string());
        for name in ["OMP_NUM_THREADS", "RAYON_NUM_THREADS"] {
            if std::env::var_os(name).is_none() {
                command.env(name, &threads);
            }
        }
        if let Some(seconds) = plan.timeout {
            command.env("TALENT_PROCESS_TIMEOUT", seconds.to_string());
        }
        let child = command.spawn().with_context(|| program.display().to_string())?;
        children.0.insert(rank, child);
    }
    Ok(children)
}

/// Running processes by rank, none of which outlives this value.
struct Children(BTreeMap<usize, Child>);

impl Drop for Children {
    fn drop(&mut self) {
        for child in self.0.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits until all have ended, and passes signals on. Returns the first that failed.
fn supervise(children: &mut Children, signal: &AtomicUsize) -> Result<Option<(usize, ExitStatus)>> {
    let mut failed: Option<(usize, ExitStatus)> = None;
    let mut deadline: Option<Instant> = None;
    while !children.0.is_empty() {
        let mut ended = Vec::new();
        for (&rank, child) in &mut children.0 {
            if let Some(status) = child.try_wait().with_context(|| format!("waiting for rank {rank}"))? {
                ended.push(rank);
                if !status.success() {
                    failed.get_or_insert((rank, status));
                    deadline.get_or_insert_with(|| Instant::now() + GRACE);
                }
            }
        }
        for rank in ended {
            children.0.remove(&rank);
        }
        let number = signal.swap(0, Ordering::Relaxed);
        if number != 0 {
            for child in children.0.values() {
                send(child, number as i32);
            }
        }
        if deadline.is_some_and(|deadline| Instant::now() > deadline) {
            for (rank, child) in &mut children.0 {
                errln!("error: rank {rank} does not end; it is killed");
                let _ = child.kill();
            }
            deadline = None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(failed)
}

/// A process that is not waited for yet keeps its number, so the signal reaches nobody else.
fn send(child: &Child, signal: i32) {
    if let Some(signal) = Signal::from_named_raw(signal) {
        let _ = kill_process(Pid::from_child(child), signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Plan> {
        let args: Vec<OsString> = text.split_whitespace().map(Into::into).collect();
        parse(&args).map(|plan| plan.expect("not the help"))
    }

    #[test]
    fn options_end_where_the_command_begins() {
        let plan =
            parsed("--nproc 4 --nccl --nnodes=2 --node-rank 1 --rdzv h:29 --timeout 60 train --set a=1")
                .unwrap();
        let command = ["train", "--set", "a=1"].map(OsString::from).to_vec();
        let expected = Plan {
            nproc: 4,
            nnodes: 2,
            node_rank: 1,
            rdzv: Some(("h".into(), 29)),
            timeout: Some(60),
            nccl: true,
            command,
        };
        assert_eq!(plan, expected);
    }

    /// What becomes of two shells that run this.
    fn launched(script: &str, signal: usize) -> Option<(usize, Option<i32>)> {
        let command = vec!["-c".into(), script.into()];
        let plan =
            Plan { nproc: 2, nnodes: 1, node_rank: 0, rdzv: None, timeout: Some(7), nccl: false, command };
        let mut children = start(&plan, std::path::Path::new("/bin/sh")).unwrap();
        // Shells need a moment to set their traps.
        std::thread::sleep(Duration::from_millis(if signal == 0 { 0 } else { 500 }));
        let failed = supervise(&mut children, &AtomicUsize::new(signal)).unwrap();
        failed.map(|(rank, status)| (rank, status.code()))
    }

    #[test]
    fn processes_know_who_they_are() {
        let says = r#"[ "$RANK $WORLD_SIZE $LOCAL_RANK $MASTER_ADDR $TALENT_PROCESS_TIMEOUT" = "$RANK 2 $RANK 127.0.0.1 7" ] && [ "$MASTER_PORT" -gt 0 ] && [ "$OMP_NUM_THREADS" -ge 1 ]"#;
        assert_eq!(launched(says, 0), None);
    }

    #[test]
    fn the_first_failure_counts() {
        assert_eq!(launched("[ $RANK = 0 ] && sleep 0.3 && exit 4; exit 3", 0), Some((1, Some(3))));
        assert_eq!(launched("[ $RANK = 0 ] || kill -9 $$", 0), Some((1, None)));
    }

    #[test]
    fn signals_reach_every_process() {
        let script = "trap 'exit 9' TERM; while :; do sleep 0.05; done";
        assert_eq!(launched(script, SIGTERM as usize), Some((0, Some(9))));
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
