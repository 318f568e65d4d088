//! What libtorch runs, operator by operator and kernel by kernel: its own profiler (Kineto).

use std::collections::BTreeMap;

use tch::Device;

use crate::shim::{ShimError, measure};

/// What an [`Event`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// An operator that reads or writes values. Operators may be inside others.
    Operator,
    /// An operator that makes a view or allocates memory.
    View,
    /// A call of CUDA's runtime or driver by the host.
    Runtime,
    /// A kernel on a GPU.
    Kernel,
    /// A copy, or filling of memory, by a GPU.
    Copy,
    /// Anything else, such as a step of the backward pass.
    Other,
}

/// One thing that happened while profiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Such as `aten::addmm` or `cudaLaunchKernel`.
    pub name: String,
    /// What it is.
    pub kind: EventKind,
    /// Nanoseconds on a clock of its own.
    pub start: u64,
    /// As `start`.
    pub end: u64,
    /// Of the host.
    pub thread: u64,
}

impl Event {
    /// Seconds it took.
    pub fn seconds(&self) -> f64 {
        self.end.saturating_sub(self.start) as f64 / 1e9
    }

    fn holds(&self, other: &Self) -> bool {
        self.thread == other.thread && self.start <= other.start && other.end <= self.end
    }
}

/// Profiles `work` on a device; returns its result and the events in order of their start. The device is not waited for, so
/// `work` should do that if it wants all its kernels counted.
///
/// # Errors
/// When the profiler does not start or stop.
pub fn profile<T>(device: Device, work: impl FnOnce() -> T) -> Result<(T, Vec<Event>), ShimError> {
    measure::profile_start(device.is_cuda())?;
    let result = work();
    let mut events = measure::profile_stop()?;
    // Of those that start together, the outer one first.
    events.sort_by_key(|event| (event.start, std::cmp::Reverse(event.end)));
    Ok((result, events))
}

/// An operator that computes and has none inside it: on a GPU, one kernel or a few.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaf<'a> {
    /// The operator.
    pub event: &'a Event,
    /// The outermost event around it, such as the step of the backward pass that it belongs to; itself if there is none.
    pub outermost: &'a Event,
}

/// The leaves among operators, in order.
///
/// - events: ordered as [`profile`] returns them
pub fn leaf_operators(events: &[Event]) -> Vec<Leaf<'_>> {
    let on_host: Vec<&Event> = events
        .iter()
        .filter(|event| matches!(event.kind, EventKind::Operator | EventKind::View | EventKind::Other))
        .collect();
    let mut is_leaf: Vec<bool> = on_host.iter().map(|event| event.kind == EventKind::Operator).collect();
    let mut outermost: Vec<usize> = (0..on_host.len()).collect();
    // Of each thread, the events that have not ended.
    let mut open: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (place, event) in on_host.iter().enumerate() {
        let open = open.entry(event.thread).or_default();
        while open.last().is_some_and(|&outer| !on_host[outer].holds(event)) {
            open.pop();
        }
        // An operator with nothing but views inside computes by itself.
        if event.kind == EventKind::Operator {
            for &outer in &*open {
                is_leaf[outer] = false;
            }
        }
        outermost[place] = open.first().copied().unwrap_or(place);
        open.push(place);
    }
    let leaves = (0..on_host.len()).filter(|&place| is_leaf[place]);
    leaves.map(|place| Leaf { event: on_host[place], outermost: on_host[outermost[place]] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Kind, Tensor};

    #[test]
    fn leaves_are_counted_without_views() {
        let xs = Tensor::ones([4, 4], (Kind::Float, Device::Cpu));
        let (_, events) = profile(Device::Cpu, || xs.transpose(0, 1).matmul(&xs).relu()).unwrap();
        let names: Vec<&str> =
            leaf_operators(&events).into_iter().map(|leaf| leaf.event.name.as_str()).collect();
        assert_eq!(names, ["aten::mm", "aten::clamp_min"], "{events:?}");
    }
}
