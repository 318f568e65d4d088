//! What a step does on a GPU: kernel launches, gaps between kernels, and whether the host ever synchronises with the device.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Value, json};
use torch_ext::profile::{Event, EventKind, leaf_operators, profile};
use torch_ext::synchronisations_of;

use super::part::{Outcome, Setting};
use super::speed::Network;
use crate::bench::network::{StepQueue, Way};
use crate::bench::{Repeats, synchronize};
use crate::config::Precision;
use crate::distributed::Processes;

pub(super) fn synchronisations(setting: &Setting) -> Result<Outcome> {
    if !setting.device.is_cuda() {
        return Ok(Outcome::not_applicable("nothing waits for a CPU"));
    }
    let mut outcome = Outcome::default();
    for (precision, name) in [(Precision::Fp32, "fp32"), (Precision::Bf16, "bf16")] {
        let network = Network::new(setting, precision, 2)?;
        let processes = Processes::default();
        let mut queue = StepQueue::new(&network.experiment, &processes, &network.batch, Way::Plain)?;
        for _ in 0..2 {
            queue.step()?;
        }
        let (done, n) = synchronisations_of(|| (0..3).try_for_each(|_| queue.step()))?;
        done?;
        outcome.figure(name, n);
        outcome.require(n == 0, || format!("three steps in {name} make the host wait {n} times"));
        if n > 0 {
            let (done, events) = profile(setting.device, || queue.step())?;
            done?;
            outcome.remark(format!("waited in {name}: {}", waits(&events).join(", ")));
        }
    }
    Ok(outcome)
}

/// Runtime calls that synchronise with the device, each with the innermost operator around it.
fn waits(events: &[Event]) -> Vec<String> {
    let waits = events.iter().filter(|event| {
        event.kind == EventKind::Runtime
            && event.name.contains("Synchronize")
            && !event.name.contains("Event")
    });
    let around = |wait: &Event| {
        let operators =
            events.iter().filter(|event| matches!(event.kind, EventKind::Operator | EventKind::View));
        let inside = operators.filter(|event| event.start <= wait.start && wait.end <= event.end);
        inside.min_by_key(|event| event.end - event.start).map_or("no operator", |event| event.name.as_str())
    };
    waits.map(|wait| format!("{} in {}", wait.name, around(wait))).collect()
}

/// Events by name: how often each name occurs, and its total seconds; the longest total first.
fn by_name<'a>(events: impl Iterator<Item = &'a Event>) -> Vec<(String, usize, f64)> {
    let mut names: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
    for event in events {
        let entry = names.entry(&event.name).or_default();
        entry.0 += 1;
        entry.1 += event.seconds();
    }
    let mut names: Vec<_> = names.into_iter().map(|(name, (n, time))| (name.to_owned(), n, time)).collect();
    names.sort_by(|a, b| b.2.total_cmp(&a.2));
    names
}

/// Events on the device: kernels and copies.
fn on_device(events: &[Event]) -> impl Iterator<Item = &Event> {
    events.iter().filter(|event| matches!(event.kind, EventKind::Kernel | EventKind::Copy))
}

/// Of kernels and copies in order of time, in seconds: the time that they run, the largest gap between them, and the time
/// from the first start to the last end.
fn busy(events: &[Event]) -> (f64, f64, f64) {
    let mut until: Option<u64> = None;
    let (mut first, mut work, mut gap) = (None, 0, 0);
    for event in on_device(events) {
        let from = until.map_or(event.start, |until| until.max(event.start));
        first.get_or_insert(event.start);
        work += event.end.saturating_sub(from);
        gap = gap.max(until.map_or(0, |until| event.start.saturating_sub(until)));
        until = Some(until.map_or(event.end, |until| until.max(event.end)));
    }
    let stretch = until.zip(first).map_or(0, |(until, first)| until - first);
    (work as f64 / 1e9, gap as f64 / 1e9, stretch as f64 / 1e9)
}

pub(super) fn kernels(setting: &Setting) -> Result<Outcome> {
    let network = Network::new(setting, Precision::Bf16, if setting.small() { 4 } else { 32 })?;
    let processes = Processes::default();
    let mut queue = StepQueue::new(&network.experiment, &processes, &network.batch, Way::Plain)?;
    for _ in 0..3 {
        queue.step()?;
    }
    synchronize(setting.device);
    const STEPS: usize = 2;
    let (done, events) = profile(setting.device, || -> Result<()> {
        (0..STEPS).try_for_each(|_| queue.step())?;
        synchronize(setting.device);
        Ok(())
    })?;
    done?;
    let mut outcome = Outcome::default();
    let count =
        |kind: EventKind| events.iter().filter(|event| event.kind == kind).count() as f64 / STEPS as f64;
    let operators = leaf_operators(&events);
    outcome.figure("leaf_operators_a_step", operators.len() as f64 / STEPS as f64);
    let listed = |names: Vec<(String, usize, f64)>| -> Vec<Value> {
        let row = |(name, n, time): (String, usize, f64)| json!({"name": name, "a_step": n as f64 / STEPS as f64, "ms_a_step": 1e3 * time / STEPS as f64});
        names.into_iter().take(40).map(row).collect()
    };
    outcome.figure("operators", listed(by_name(operators.into_iter().map(|leaf| leaf.event))));
    if setting.device.is_cuda() {
        let (work, gap, stretch) = busy(&events);
        outcome.figure("kernels_a_step", count(EventKind::Kernel));
        outcome.figure("copies_a_step", count(EventKind::Copy));
        outcome.figure("kernel_ms_a_step", 1e3 * work / STEPS as f64);
        outcome.figure("wall_ms_a_step", 1e3 * stretch / STEPS as f64);
        outcome.figure("busy_share", work / stretch.max(f64::MIN_POSITIVE));
        outcome.figure("largest_gap_share_of_step", gap * STEPS as f64 / stretch.max(f64::MIN_POSITIVE));
        outcome.require(count(EventKind::Kernel) > 0.0, || "the profiler saw no kernel".into());
        outcome.figure("kernels", listed(by_name(on_device(&events))));
        outcome.figure("waits", waits(&events));
    }
    let measured = network.measure(&processes, Way::Plain, Repeats { repeats: 3, warm_up: 1 })?;
    for (stage, seconds) in &measured.stages {
        outcome.figure(&format!("{stage} ms"), 1e3 * seconds);
    }
    Ok(outcome)
}
