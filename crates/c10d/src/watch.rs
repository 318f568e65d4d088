//! Heartbeats, to find out which process caused a failed operation.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::Error;
use crate::rendezvous::Rendezvous;
use crate::shim::RawStore;

/// Time between two heartbeats.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long a live store may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait for a key that may not exist.
const LOOKUP_TIMEOUT: Duration = Duration::from_millis(200);
/// How long rank 0 waits for other processes to read the store, which ends with rank 0.
const READERS_TIMEOUT: Duration = Duration::from_secs(10);

/// Heartbeat thread: publishes once a second in the store that this process lives, and its number of operations.
#[derive(Debug)]
pub(crate) struct Watch {
    meeting: Rendezvous,
    /// For reporting failures and reading heartbeats. It is connected at the start: a new connection could take longer than the
    /// others wait, because libtorch queries the name service for the address of each connection.
    store: Arc<RawStore>,
    pause: Arc<Mutex<Option<Pause>>>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// A time in which this process did not run and sent no heartbeats: it was stopped, or its machine was asleep.
#[derive(Debug, Clone, Copy)]
struct Pause {
    length: Duration,
    ended: Instant,
}

fn key(what: &str, rank: usize) -> String {
    format!("watch/{what}/{rank}")
}

impl Watch {
    /// Connects to the store and starts the heartbeat thread.
    ///
    /// - operations: number of operations that this process has started
    pub(crate) fn start(meeting: Rendezvous, operations: Arc<AtomicU64>) -> Result<Self, Error> {
        // Separate connections: a connection in which one thread waits blocks all others that use it.
        let connect = || RawStore::new(&meeting.host, meeting.port, false, meeting.timeout);
        let (store, for_signs) = (connect()?, connect()?);
        let (stop, stopped) = channel::<()>();
        let rank = meeting.rank;
        let pause = Arc::new(Mutex::new(None));
        let recorded = Arc::clone(&pause);
        let thread = std::thread::spawn(move || {
            for beat in 0_u64.. {
                let sign = format!("{beat} {}", operations.load(Ordering::Relaxed));
                // Without the store, heartbeats cannot reach any other process.
                if for_signs.set(&key("beat", rank), sign.as_bytes()).is_err() {
                    return;
                }
                let before = Instant::now();
                if stopped.recv_timeout(INTERVAL) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
                let length = before.elapsed();
                if length > INTERVAL + ANSWER_TIMEOUT
                    && let Ok(mut recorded) = recorded.lock()
                {
                    *recorded = Some(Pause { length, ended: Instant::now() });
                }
            }
        });
        Ok(Self { meeting, store: Arc::new(store), pause, stop: Some(stop), thread: Some(thread) })
    }

    /// Publishes why this process is about to end. Does nothing if the store cannot be reached.
    pub(crate) fn tell(&self, message: &str) {
        let _ = self.store.set(&key("failure", self.meeting.rank), message.as_bytes());
    }

    /// On rank 0, waits until the others have read who is at fault, because the store ends with rank 0.
    pub(crate) fn wait_for_readers(&self) {
        self.wait_for_others(&[]);
    }

    /// The last pause of this process, if the others may have timed out because of it.
    fn own_pause(&self) -> Option<Pause> {
        let pause = self.pause.lock().ok().and_then(|pause| *pause)?;
        // Older pauses are ignored: an operation has ended since, which shows that the others did not time out.
        let recent = self.meeting.timeout.saturating_add(READERS_TIMEOUT + ANSWER_TIMEOUT * 4);
        (pause.ended.elapsed() < recent).then_some(pause)
    }

    /// Describes which process caused the failure of an operation. Takes a few seconds.
    pub(crate) fn blame(&self) -> String {
        let rank = self.meeting.rank;
        let (answer, silent) = match self.diagnose_in_time() {
            Some(found) => found,
            None => {
                ("rank 0 shows no sign of life: the store that it keeps does not answer".to_owned(), vec![0])
            }
        };
        let answer = match self.own_pause() {
            Some(Pause { length, .. }) => format!(
                "rank {rank}, this process, stood still for {:.0} s (stopped, or its machine asleep), and the others have left",
                length.as_secs_f64()
            ),
            None => answer,
        };
        if !silent.contains(&0) {
            let _ = self.store.set(&key("left", rank), b"");
        }
        self.wait_for_others(&silent);
        answer
    }

    /// [`diagnose`] with a time-out, in a thread that may be left behind. The store of a stopped process keeps its connections
    /// open and never answers, and libtorch ignores its time-out while it waits.
    fn diagnose_in_time(&self) -> Option<(String, Vec<usize>)> {
        let (store, rank, size) = (Arc::clone(&self.store), self.meeting.rank, self.meeting.size);
        let (send, receive) = channel();
        std::thread::spawn(move || {
            let _ = send.send(diagnose(&store, rank, size));
        });
        receive.recv_timeout(ANSWER_TIMEOUT * 3 + INTERVAL * 4 + LOOKUP_TIMEOUT * size as u32).ok()
    }

    fn wait_for_others(&self, silent: &[usize]) {
        if self.meeting.rank != 0 {
            return;
        }
        let end = Instant::now() + READERS_TIMEOUT;
        for other in (1..self.meeting.size).filter(|other| !silent.contains(other)) {
            let left = end.saturating_duration_since(Instant::now());
            // Errors are ignored: a process that does not read in time is not waited for.
            let _ = self.store.get(&key("left", other), left.max(Duration::from_millis(1)));
        }
    }
}

/// Finds out which processes have reported a failure, send no heartbeats, or are behind in their operations. Returns a
/// description, and the ranks without heartbeats.
fn diagnose(store: &RawStore, rank: usize, size: usize) -> (String, Vec<usize>) {
    let now = |rank: usize| -> Option<(u64, u64)> {
        let text = String::from_utf8(store.get(&key("beat", rank), ANSWER_TIMEOUT).ok()?).ok()?;
        let (beat, operations) = text.split_once(' ')?;
        Some((beat.parse().ok()?, operations.parse().ok()?))
    };
    let others = || (0..size).filter(|&other| other != rank);
    let before: Vec<_> = (0..size).map(now).collect();
    std::thread::sleep(INTERVAL * 4);
    let after: Vec<_> = (0..size).map(now).collect();
    let failure = |other: usize| store.get(&key("failure", other), LOOKUP_TIMEOUT).ok();
    let told = others().find_map(|other| Some((other, failure(other)?)));
    let silent: Vec<usize> = others().filter(|&other| before[other] == after[other]).collect();
    let least = after.iter().flatten().map(|(_, operations)| *operations).min();
    let slow: Vec<usize> =
        others().filter(|&other| after[other].map(|(_, operations)| operations) == least).collect();
    let answer = match told {
        Some((other, message)) => format!("rank {other} failed: {}", String::from_utf8_lossy(&message)),
        None if after.iter().all(Option::is_none) => "rank 0 is gone".into(),
        None if !silent.is_empty() => format!("{} shows no sign of life", ranks(&silent)),
        None if !slow.is_empty() && slow.len() + 1 < size.max(3) => {
            format!("{} lives, but does not come to the operation that the others wait in", ranks(&slow))
        }
        None => "no rank is known to be at fault".into(),
    };
    (answer, silent)
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn ranks(list: &[usize]) -> String {
    let numbers: Vec<String> = list.iter().map(ToString::to_string).collect();
    match numbers.as_slice() {
        [one] => format!("rank {one}"),
        [all @ .., last] => format!("ranks {} and {last}", all.join(", ")),
        [] => "no rank".into(),
    }
}
