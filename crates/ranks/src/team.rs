use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use cli_kit::errln;
use rustix::process::{Pid, Signal, kill_process};

use crate::launcher::this_launcher;
use crate::{Error, Result};

/// Time for the other ranks to report which rank is at fault and to end by themselves, after one has failed.
const GRACE: Duration = Duration::from_secs(30);

/// The processes of a run on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Team {
    /// Number of processes on this machine.
    pub nproc: usize,
    /// Number of machines.
    pub nnodes: usize,
    /// Number of this machine, from 0.
    pub node_rank: usize,
    /// Rendezvous host and port; if `None`, a free port on this machine.
    pub rdzv: Option<(String, u16)>,
    /// Device of the first process on this machine; the other processes use the devices after it.
    pub first_device: usize,
    /// Seconds that processes wait for each other; if `None`, their default.
    pub timeout: Option<u64>,
}

impl Team {
    /// `nproc` processes on this machine only.
    pub fn here(nproc: usize) -> Self {
        Self { nproc, nnodes: 1, node_rank: 0, rdzv: None, first_device: 0, timeout: None }
    }

    /// Starts the processes. If one cannot be started, the others are killed.
    ///
    /// - command: makes the command of a rank, without the environment variables that hold its rank
    ///
    /// # Errors
    /// When a process cannot be started, or there is no free port.
    pub fn start(&self, mut command: impl FnMut(usize) -> std::io::Result<Command>) -> Result<Ranks> {
        let (host, port) = match &self.rdzv {
            Some(rdzv) => rdzv.clone(),
            None => ("127.0.0.1".to_owned(), free_port()?),
        };
        let mut ranks = Ranks(BTreeMap::new());
        for local_rank in 0..self.nproc {
            let rank = self.node_rank * self.nproc + local_rank;
            let system = |source| Error::System { what: "preparing a process", source };
            let mut command = command(rank).map_err(system)?;
            let (launcher, id) = this_launcher();
            command
                .env("RANK", rank.to_string())
                .env("WORLD_SIZE", (self.nnodes * self.nproc).to_string())
                .env("LOCAL_RANK", (self.first_device + local_rank).to_string())
                .env("MASTER_ADDR", &host)
                .env("MASTER_PORT", port.to_string())
                // If this process is killed, the ranks are killed as well.
                .env(launcher, id);
            if let Some(seconds) = self.timeout {
                command.env("TALENT_PROCESS_TIMEOUT", seconds.to_string());
            }
            let child = command.spawn().map_err(|source| Error::Start {
                program: command.get_program().to_string_lossy().into_owned(),
                source,
            })?;
            ranks.0.insert(rank, child);
        }
        Ok(ranks)
    }
}

fn free_port() -> Result<u16> {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    free.map(|address| address.port())
        .map_err(|source| Error::System { what: "looking for a free port", source })
}

/// Running processes by rank; killed when dropped.
#[derive(Debug)]
pub struct Ranks(BTreeMap<usize, Child>);

impl Drop for Ranks {
    fn drop(&mut self) {
        for child in self.0.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl From<Child> for Ranks {
    /// A single process, as rank 0.
    fn from(child: Child) -> Self {
        Self(BTreeMap::from([(0, child)]))
    }
}

impl Ranks {
    /// Waits until all processes have ended. Returns rank and exit status of the first that failed.
    ///
    /// - signal: polled repeatedly; a signal that it returns is forwarded to all processes
    ///
    /// # Errors
    /// When a process cannot be waited for.
    pub fn supervise(
        &mut self,
        mut signal: impl FnMut() -> Option<i32>,
    ) -> Result<Option<(usize, ExitStatus)>> {
        let mut failed: Option<(usize, ExitStatus)> = None;
        let mut deadline: Option<Instant> = None;
        while !self.0.is_empty() {
            let mut ended = Vec::new();
            for (&rank, child) in &mut self.0 {
                let status = child
                    .try_wait()
                    .map_err(|source| Error::System { what: "waiting for a process", source });
                if let Some(status) = status? {
                    ended.push(rank);
                    if !status.success() {
                        failed.get_or_insert((rank, status));
                        deadline.get_or_insert_with(|| Instant::now() + GRACE);
                    }
                }
            }
            for rank in ended {
                self.0.remove(&rank);
            }
            if let Some(number) = signal() {
                self.0.values().for_each(|child| send(child, number));
            }
            if deadline.is_some_and(|deadline| Instant::now() > deadline) {
                for (rank, child) in &mut self.0 {
                    errln!("error: rank {rank} does not end; it is killed");
                    let _ = child.kill();
                }
                deadline = None;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(failed)
    }
}

/// Sends a signal. A process that was not waited for yet keeps its process id, so the signal cannot reach another process.
fn send(child: &Child, signal: i32) {
    if let Some(signal) = Signal::from_named_raw(signal) {
        let _ = kill_process(Pid::from_child(child), signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a script in two shells; returns rank and exit code of the first that failed.
    fn launched(script: &str, signal: Option<i32>) -> Option<(usize, Option<i32>)> {
        let team = Team { timeout: Some(7), ..Team::here(2) };
        let shell = |_| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", script]);
            Ok(command)
        };
        let mut ranks = team.start(shell).unwrap();
        // Shells need a moment to set their traps.
        std::thread::sleep(Duration::from_millis(if signal.is_none() { 0 } else { 500 }));
        let mut signal = signal;
        let failed = ranks.supervise(|| signal.take()).unwrap();
        failed.map(|(rank, status)| (rank, status.code()))
    }

    #[test]
    fn processes_know_who_they_are() {
        let says = r#"[ "$RANK $WORLD_SIZE $LOCAL_RANK $MASTER_ADDR $TALENT_PROCESS_TIMEOUT" = "$RANK 2 $RANK 127.0.0.1 7" ] && [ "$MASTER_PORT" -gt 0 ] && [ "$TALENT_LAUNCHER" = $PPID ]"#;
        assert_eq!(launched(says, None), None);
    }

    #[test]
    fn the_first_failure_counts() {
        assert_eq!(launched("[ $RANK = 0 ] && sleep 0.3 && exit 4; exit 3", None), Some((1, Some(3))));
        assert_eq!(launched("[ $RANK = 0 ] || kill -9 $$", None), Some((1, None)));
    }

    #[test]
    fn signals_reach_every_process() {
        let script = "trap 'exit 9' TERM; while :; do sleep 0.05; done";
        assert_eq!(launched(script, Some(15)), Some((0, Some(9))));
    }
}
