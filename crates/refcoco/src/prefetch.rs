use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::{Error, Result};

/// Prefetches values in a worker thread and delivers them in order. At most `depth` finished values wait; one more may be in
/// progress. The first error is delivered and ends the iteration. Dropping it stops and joins the worker thread.
#[derive(Debug)]
pub struct Prefetch<T> {
    receiver: Option<Receiver<Result<T>>>,
    /// A value that was waited for.
    ready: Option<Result<T>>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Prefetch<T> {
    /// Starts the worker thread on the jobs, in order. `load` may itself use all cores.
    pub fn new<J: Send + 'static>(
        jobs: Vec<J>,
        depth: usize,
        load: impl Fn(&J) -> Result<T> + Send + 'static,
    ) -> Self {
        let (sender, receiver) = sync_channel(depth.max(1));
        let thread = std::thread::spawn(move || {
            for job in &jobs {
                let value = load(job);
                let failed = value.is_err();
                if sender.send(value).is_err() || failed {
                    return;
                }
            }
        });
        Self { receiver: Some(receiver), ready: None, thread: Some(thread) }
    }

    /// Waits for the next value, but not longer than this. Whether [`Iterator::next`] will return at once.
    pub fn wait(&mut self, at_most: Duration) -> bool {
        if self.ready.is_none()
            && let Some(receiver) = &self.receiver
        {
            match receiver.recv_timeout(at_most) {
                Ok(value) => self.ready = Some(value),
                Err(RecvTimeoutError::Timeout) => return false,
                // The end, which `next` tells.
                Err(RecvTimeoutError::Disconnected) => {}
            }
        }
        true
    }
}

impl<T> Iterator for Prefetch<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(value) = self.ready.take() {
            return Some(value);
        }
        if let Ok(value) = self.receiver.as_ref()?.recv() {
            return Some(value);
        }
        self.receiver = None;
        let panic = self.thread.take()?.join().err()?;
        let message = panic.downcast_ref::<String>().map(String::as_str);
        let message = message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panic");
        Some(Err(Error::Loader(message.to_owned())))
    }
}

impl<T> Drop for Prefetch<T> {
    fn drop(&mut self) {
        // Sending fails once the receiver is gone, so the thread ends after its current job.
        self.receiver = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_in_order_and_an_error_ends_them() {
        let fails_at_three = |&job: &i32| {
            if job == 3 { Err(Error::Loader("three".into())) } else { Ok(job * 10) }
        };
        let found: Vec<_> = Prefetch::new((0..6).collect(), 2, fails_at_three).collect();
        assert_eq!(found.iter().flatten().copied().collect::<Vec<_>>(), [0, 10, 20]);
        assert_eq!(found.len(), 4);
    }

    #[test]
    fn waiting_takes_nothing_away() {
        let slow = |&job: &i32| {
            std::thread::sleep(Duration::from_millis(50));
            Ok(job)
        };
        let mut prefetch = Prefetch::new(vec![1, 2], 1, slow);
        assert!(!prefetch.wait(Duration::from_millis(1)));
        while !prefetch.wait(Duration::from_millis(10)) {}
        assert!(prefetch.wait(Duration::ZERO));
        let found: Vec<i32> = prefetch.map(Result::unwrap).collect();
        assert_eq!(found, [1, 2]);
    }

    #[test]
    fn a_panic_becomes_an_error() {
        let mut prefetch = Prefetch::new(vec![()], 1, |()| -> Result<()> { panic!("worker broke") });
        assert!(prefetch.next().unwrap().unwrap_err().to_string().contains("worker broke"));
        assert!(prefetch.next().is_none());
    }

    #[test]
    fn dropping_it_half_way_does_not_hang() {
        let mut prefetch = Prefetch::new((0..1000).collect(), 1, |&job: &i32| Ok(job));
        assert_eq!(prefetch.next().unwrap().unwrap(), 0);
    }
}
