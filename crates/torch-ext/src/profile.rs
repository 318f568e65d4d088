//! Binding of libtorch's profiler (Kineto): records every operator and kernel.

use std::collections::BTreeMap;

use tch::Device;

use crate::shim::{ShimError, measure};

/// Kind of an [`Event`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// An operator that reads or writes values. Operators can be nested.
    Operator,
    /// An operator that only makes a view or allocates memory.
    View,
    /// A call of the CUDA runtime or driver on the host.
    Runtime,
    /// A kernel on a GPU.
    Kernel,
    /// A memcpy or memset on a GPU.
    Copy,
    /// Anything else, for example a node of the backward pass.
    Other,
}

/// One event of a profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Name, for example `aten::addmm` or `cudaLaunchKernel`.
    pub name: String,
    /// Kind of the event.
    pub kind: EventKind,
    /// Start in nanoseconds on the profiler's clock.
    pub start: u64,
    /// End in nanoseconds on the profiler's clock.
    pub end: u64,
    /// Number of the host thread.
    pub thread: u64,
}

impl Event {
    /// Duration in seconds.
    pub fn seconds(&self) -> f64 {
        self.end.saturating_sub(self.start) as f64 / 1e9
    }

    fn holds(&self, other: &Self) -> bool {
        self.thread == other.thread && self.start <= other.start && other.end <= self.end
    }
}

/// Profiles `work` on a device. Returns its result and the events, ordered by start. There is no synchronisation with the
/// device at the end: `work` must wait for the device itself to have all its kernels recorded.
///
/// # Errors
/// When the profiler cannot be started or stopped.
pub fn profile<T>(device: Device, work: impl FnOnce() -> T) -> Result<(T, Vec<Event>), ShimError> {
    measure::profile_start(device.is_cuda())?;
    let result = work();
    let mut events = measure::profile_stop()?;
    // Of events with the same start, the longest (outermost) comes first.
    events.sort_by_key(|event| (event.start, std::cmp::Reverse(event.end)));
    Ok((result, events))
}

/// A leaf operator: it computes, and calls no other operator that does. On a GPU it is one kernel or a few.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaf<'a> {
    /// The operator.
    pub event: &'a Event,
    /// The outermost event that contains it, for example a node of the backward pass. The operator itself if there is none.
    pub outermost: &'a Event,
}

/// Returns the operators that contain no other operator, in order. Views are neither returned nor counted.
///
/// - events: ordered as [`profile`] returns them
pub fn leaf_operators(events: &[Event]) -> Vec<Leaf<'_>> {
    let on_host: Vec<&Event> = events
        .iter()
        .filter(|event| matches!(event.kind, EventKind::Operator | EventKind::View | EventKind::Other))
        .collect();
    let mut is_leaf: Vec<bool> = on_host.iter().map(|event| event.kind == EventKind::Operator).collect();
    let mut outermost: Vec<usize> = (0..on_host.len()).collect();
    // Per thread: stack of the events that have not ended.
    let mut open: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (place, event) in on_host.iter().enumerate() {
        let open = open.entry(event.thread).or_default();
        while open.last().is_some_and(|&outer| !on_host[outer].holds(event)) {
            open.pop();
        }
        // An operator that contains only views is a leaf.
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
