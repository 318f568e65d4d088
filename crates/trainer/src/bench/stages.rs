//! Time by stage, from the tracing spans that the program opens around its stages.

use std::cell::RefCell;
use std::sync::{Arc, Mutex};

use tch::Device;
use torch_ext::Moment;
use tracing::span;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

/// Seconds by stage, in order of appearance.
pub(crate) type StageSeconds = Vec<(&'static str, f64)>;

thread_local! {
    /// Stack of this thread's open spans, as indices into the record.
    static OPEN: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// One time interval inside a span.
#[derive(Debug)]
struct Stretch {
    name: &'static str,
    /// Index of the enclosing interval in the record.
    outer: Option<usize>,
    start: Moment,
    end: Option<Moment>,
}

/// Records when the device reaches the beginning and end of each span, without synchronising with a GPU.
#[derive(Debug, Clone)]
struct StageClock {
    device: Device,
    record: Arc<Mutex<Vec<Stretch>>>,
}

impl<S: tracing::Subscriber + for<'span> LookupSpan<'span>> Layer<S> for StageClock {
    fn on_enter(&self, id: &span::Id, context: Context<'_, S>) {
        let (Some(span), Ok(start), Ok(mut record)) =
            (context.span(id), Moment::now(self.device), self.record.lock())
        else {
            return;
        };
        let outer = OPEN.with_borrow_mut(|open| {
            open.push(record.len());
            open.len().checked_sub(2).map(|place| open[place])
        });
        record.push(Stretch { name: span.name(), outer, start, end: None });
    }

    fn on_exit(&self, _: &span::Id, _: Context<'_, S>) {
        let end = Moment::now(self.device).ok();
        let (Some(place), Ok(mut record)) = (OPEN.with_borrow_mut(Vec::pop), self.record.lock()) else {
            return;
        };
        if let Some(stretch) = record.get_mut(place) {
            stretch.end = end;
        }
    }
}

/// Seconds by span name, not counting time in nested spans.
fn sum_up(record: &[Stretch]) -> StageSeconds {
    let whole = |stretch: &Stretch| {
        let end = stretch.end.as_ref()?;
        stretch.start.seconds_to(end).ok()
    };
    let wholes: Vec<f64> = record.iter().map(|stretch| whole(stretch).unwrap_or(0.0)).collect();
    let mut own = wholes.clone();
    for (stretch, whole) in record.iter().zip(&wholes) {
        if let Some(outer) = stretch.outer {
            own[outer] -= whole;
        }
    }
    let mut stages = StageSeconds::new();
    for (stretch, own) in record.iter().zip(own) {
        match stages.iter_mut().find(|(name, _)| *name == stretch.name) {
            Some((_, seconds)) => *seconds += own,
            None => stages.push((stretch.name, own)),
        }
    }
    stages
}

/// Runs `work` and returns the seconds that the device spent in each stage.
pub(crate) fn watch<T>(device: Device, work: impl FnOnce() -> T) -> (T, StageSeconds) {
    let clock = StageClock { device, record: Arc::default() };
    let subscriber = Registry::default().with(clock.clone());
    let result = tracing::subscriber::with_default(subscriber, work);
    let stages = clock.record.lock().map(|record| sum_up(&record)).unwrap_or_default();
    (result, stages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
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
