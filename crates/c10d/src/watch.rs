//! Signs of life, so that a failed operation can be put down to the process that caused it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::Error;
use crate::rendezvous::Rendezvous;
use crate::shim::RawStore;

/// Between two signs of life.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long an answer of a live store may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to look for what need not be there.
const LOOK: Duration = Duration::from_millis(200);
/// How long rank 0, with whom the store ends, waits for others to read it.
const FAREWELL: Duration = Duration::from_secs(10);

/// Tells the others once a second that this process lives and which operation it is at.
#[derive(Debug)]
pub(crate) struct Watch {
    meeting: Rendezvous,
    /// To tell of failures and to ask who is at fault. It is there from the start: a new connection could take longer than
    /// the others have patience, since libtorch asks the name service for each one's address.
    store: Arc<RawStore>,
    pause: Arc<Mutex<Option<Pause>>>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// A time in which this process did nothing at all, not even give signs of life: it was stopped, or its machine slept.
#[derive(Debug, Clone, Copy)]
struct Pause {
    length: Duration,
    ended: Instant,
}

fn key(what: &str, rank: usize) -> String {
    format!("watch/{what}/{rank}")
}

impl Watch {
    /// - operations: how many operations this process has begun
    pub(crate) fn start(meeting: Rendezvous, operations: Arc<AtomicU64>) -> Result<Self, Error> {
        // Connections of its own: a store in which another thread waits answers nobody else.
        let connect = || RawStore::new(&meeting.host, meeting.port, false, meeting.timeout);
        let (store, for_signs) = (connect()?, connect()?);
        let (stop, stopped) = channel::<()>();
        let rank = meeting.rank;
        let pause = Arc::new(Mutex::new(None));
        let noted = Arc::clone(&pause);
        let thread = std::thread::spawn(move || {
            for beat in 0_u64.. {
                let sign = format!("{beat} {}", operations.load(Ordering::Relaxed));
                // Once the store is gone there is nobody left to tell.
                if for_signs.set(&key("beat", rank), sign.as_bytes()).is_err() {
                    return;
                }
                let before = Instant::now();
                if stopped.recv_timeout(INTERVAL) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
                let length = before.elapsed();
                if length > INTERVAL + PATIENCE
                    && let Ok(mut noted) = noted.lock()
                {
                    *noted = Some(Pause { length, ended: Instant::now() });
                }
            }
        });
        Ok(Self { meeting, store: Arc::new(store), pause, stop: Some(stop), thread: Some(thread) })
    }

    /// Tells the others why this process is about to end, if they can still be told.
    pub(crate) fn tell(&self, message: &str) {
        let _ = self.store.set(&key("failure", self.meeting.rank), message.as_bytes());
    }

    /// Rank 0, with whom the store ends, waits until the others have read who is at fault.
    pub(crate) fn wait_for_readers(&self) {
        self.wait_for_others(&[]);
    }

    /// A pause of this process that the others may have lost patience in.
    fn own_pause(&self) -> Option<Pause> {
        let pause = self.pause.lock().ok().and_then(|pause| *pause)?;
        // An operation that came to an end after it has shown that the others have not.
        let recent = self.meeting.timeout.saturating_add(FAREWELL + PATIENCE * 4);
        (pause.ended.elapsed() < recent).then_some(pause)
    }

    /// Who is to blame for an operation that failed here. Takes a few seconds.
    pub(crate) fn blame(&self) -> String {
        let rank = self.meeting.rank;
        let (answer, silent) = match self.ask_in_time() {
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

    /// [`ask`] in a thread that may be left behind: a store whose process is stopped keeps its connections open and never
    /// answers, and libtorch waits for it beyond any time-out.
    fn ask_in_time(&self) -> Option<(String, Vec<usize>)> {
        let (store, rank, size) = (Arc::clone(&self.store), self.meeting.rank, self.meeting.size);
        let (send, receive) = channel();
        std::thread::spawn(move || {
            let _ = send.send(ask(&store, rank, size));
        });
        receive.recv_timeout(PATIENCE * 3 + INTERVAL * 4 + LOOK * size as u32).ok()
    }

    fn wait_for_others(&self, silent: &[usize]) {
        if self.meeting.rank != 0 {
            return;
        }
        let end = Instant::now() + FAREWELL;
        for other in (1..self.meeting.size).filter(|other| !silent.contains(other)) {
            let left = end.saturating_duration_since(Instant::now());
            // Whoever does not come to read is none to wait for any longer.
            let _ = self.store.get(&key("left", other), left.max(Duration::from_millis(1)));
        }
    }
}

/// Who gives no signs of life, who has told of a failure, who is behind; and the silent ones by number.
fn ask(store: &RawStore, rank: usize, size: usize) -> (String, Vec<usize>) {
    let now = |rank: usize| -> Option<(u64, u64)> {
        let text = String::from_utf8(store.get(&key("beat", rank), PATIENCE).ok()?).ok()?;
        let (beat, operations) = text.split_once(' ')?;
        Some((beat.parse().ok()?, operations.parse().ok()?))
    };
    let others = || (0..size).filter(|&other| other != rank);
    let before: Vec<_> = (0..size).map(now).collect();
    std::thread::sleep(INTERVAL * 4);
    let after: Vec<_> = (0..size).map(now).collect();
    let failure = |other: usize| store.get(&key("failure", other), LOOK).ok();
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
