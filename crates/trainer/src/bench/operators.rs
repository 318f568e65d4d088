//! `bench operators`: counts the operators of a training step that compute. On a GPU each costs at least one kernel launch.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use clap::Args;
use cli_kit::outln;
use serde_json::json;
use torch_ext::profile::{Event, leaf_operators, profile};
use tracing::span;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

use super::network::{NetworkBenchArgs, StepQueue, Way};
use super::synchronize;
use crate::distributed::Processes;

#[derive(Debug, Args)]
pub(crate) struct OperatorsBenchArgs {
    #[command(flatten)]
    network: NetworkBenchArgs,
    /// Number of operator names to list, the most frequent first
    #[arg(long, default_value_t = 25)]
    most: usize,
}

/// The parts of a step. `forward` is everything outside the backward pass and the update, including the losses.
const PARTS: [&str; 3] = ["forward", "backward", "update"];

/// Boundaries between parts: the part that begins, and when, in nanoseconds on the profiler's clock.
#[derive(Debug, Clone, Default)]
struct Bounds(Arc<Mutex<Vec<(&'static str, u64)>>>);

impl Bounds {
    fn note(&self, name: &'static str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
        if let Ok(mut bounds) = self.0.lock() {
            bounds.push((name, now));
        }
    }

    /// The part of the step that contains this time.
    fn part_at(&self, time: u64) -> &'static str {
        let bounds = self.0.lock();
        let last = bounds.ok().and_then(|bounds| bounds.iter().rev().find(|(_, at)| *at <= time).copied());
        last.map_or(PARTS[0], |(part, _)| part)
    }
}

impl<S: tracing::Subscriber + for<'span> LookupSpan<'span>> Layer<S> for Bounds {
    fn on_enter(&self, id: &span::Id, context: Context<'_, S>) {
        match context.span(id).map(|span| span.name()) {
            Some("backward") => self.note(PARTS[1]),
            Some("optimiser") => self.note(PARTS[2]),
            _ => {}
        }
    }

    fn on_exit(&self, id: &span::Id, context: Context<'_, S>) {
        if matches!(context.span(id).map(|span| span.name()), Some("backward" | "optimiser")) {
            self.note(PARTS[0]);
        }
    }
}

/// Number of operators by part and name.
type Counts = BTreeMap<&'static str, BTreeMap<String, usize>>;

fn count(events: &[Event], bounds: &Bounds) -> Counts {
    let mut counts: Counts = PARTS.into_iter().map(|part| (part, BTreeMap::new())).collect();
    for leaf in leaf_operators(events) {
        let names = counts.entry(bounds.part_at(leaf.event.start)).or_default();
        let within = leaf.outermost.name.trim_start_matches("autograd::engine::evaluate_function: ");
        let name = match within == leaf.event.name {
            true => leaf.event.name.clone(),
            false => format!("{} in {within}", leaf.event.name),
        };
        *names.entry(name).or_default() += 1;
    }
    counts
}

/// Counts the operators of one step. On a CPU, libtorch's own kernels are used in place of this project's.
pub(crate) fn bench_operators(args: &OperatorsBenchArgs) -> Result<()> {
    let (experiment, batch) = args.network.open_network()?;
    torch_ext::set_cpu_kernels(false);
    let processes = Processes::default();
    let mut queue = StepQueue::new(&experiment, &processes, &batch, Way::Plain)?;
    for _ in 0..2 {
        queue.step()?;
    }
    let bounds = Bounds::default();
    let subscriber = Registry::default().with(bounds.clone());
    let (done, events) = profile(experiment.device, || {
        let done = tracing::subscriber::with_default(subscriber, || queue.step());
        synchronize(experiment.device);
        done
    })?;
    done?;
    let counts = count(&events, &bounds);
    let total = |part: &str| counts.get(part).map_or(0, |names| names.values().sum::<usize>());
    let precision = serde_json::to_value(experiment.cfg.train.precision).context("precision")?;
    if args.network.prints_json() {
        let all: usize = PARTS.iter().map(|part| total(part)).sum();
        let report = json!({
            "bench": "operators", "config": experiment.cfg.name, "batch_size": batch.n, "precision": precision,
            "all": all, "forward": total("forward"), "backward": total("backward"), "update": total("update"),
            "names": counts,
        });
        outln!("{report:#}");
        return Ok(());
    }
    outln!("operators that compute, of a step of {} in {precision}", experiment.cfg.name);
    for part in PARTS {
        outln!("{part}: {}", total(part));
        let mut names: Vec<(&String, &usize)> = counts.get(part).into_iter().flatten().collect();
        names.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
        for (name, n) in names.into_iter().take(args.most) {
            outln!("  {n:>6}  {name}");
        }
    }
    Ok(())
}
