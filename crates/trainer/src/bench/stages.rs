//! Time by stage, from the tracing spans that the program opens around its stages.

use std::cell::RefCell;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tch::Device;
use tracing::span;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

use super::synchronize;

/// Seconds by stage, in order of appearance.
pub(crate) type StageSeconds = Vec<(&'static str, f64)>;

thread_local! {
    /// The open spans' starts, and how much of each went to spans inside it.
    static OPEN: RefCell<Vec<(Instant, Duration)>> = const { RefCell::new(Vec::new()) };
}

/// Adds up, by name, the time spent inside spans and outside the spans within them.
#[derive(Debug, Clone)]
struct StageClock {
    /// Waited for at every boundary, since a GPU works behind the program's back.
    device: Device,
    stages: Arc<Mutex<StageSeconds>>,
}

impl<S: tracing::Subscriber + for<'span> LookupSpan<'span>> Layer<S> for StageClock {
    fn on_enter(&self, _: &span::Id, _: Context<'_, S>) {
        synchronize(self.device);
        OPEN.with_borrow_mut(|open| open.push((Instant::now(), Duration::ZERO)));
    }

    fn on_exit(&self, id: &span::Id, context: Context<'_, S>) {
        synchronize(self.device);
        let Some((started, inside)) = OPEN.with_borrow_mut(Vec::pop) else { return };
        let whole = started.elapsed();
        OPEN.with_borrow_mut(|open| {
            if let Some((_, inside)) = open.last_mut() {
                *inside += whole;
            }
        });
        let own = whole.saturating_sub(inside).as_secs_f64();
        let (Some(span), Ok(mut stages)) = (context.span(id), self.stages.lock()) else { return };
        match stages.iter_mut().find(|(name, _)| *name == span.name()) {
            Some((_, seconds)) => *seconds += own,
            None => stages.push((span.name(), own)),
        }
    }
}

/// Runs `work` and returns the seconds it spent in each stage. On a GPU the stages no longer overlap, so together they
/// take longer than a run that is not watched.
pub(crate) fn watch<T>(device: Device, work: impl FnOnce() -> T) -> (T, StageSeconds) {
    let clock = StageClock { device, stages: Arc::default() };
    let subscriber = Registry::default().with(clock.clone());
    let result = tracing::subscriber::with_default(subscriber, work);
    let stages = clock.stages.lock().map(|stages| stages.clone()).unwrap_or_default();
    (result, stages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::trace_span;

    #[test]
    fn inner_stages_are_not_counted_twice() {
        let pause = || std::thread::sleep(Duration::from_millis(20));
        let ((), stages) = watch(Device::Cpu, || {
            let _outer = trace_span!("outer").entered();
            for _ in 0..2 {
                trace_span!("inner").in_scope(pause);
            }
            pause();
        });
        let seconds = |name: &str| stages.iter().find(|(known, _)| *known == name).unwrap().1;
        assert_eq!(stages.len(), 2);
        assert!(seconds("inner") >= 0.04 && seconds("outer") >= 0.02);
        assert!(seconds("outer") < seconds("inner"), "{stages:?}");
    }
}
