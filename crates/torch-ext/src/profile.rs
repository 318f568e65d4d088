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

/// The operators that compute and have none inside them: on a GPU, each is one kernel or a few.
///
/// - events: ordered as [`profile`] returns them
pub fn leaf_operators(events: &[Event]) -> Vec<&Event> {
    let operators: Vec<&Event> =
        events.iter().filter(|event| matches!(event.kind, EventKind::Operator | EventKind::View)).collect();
    let mut is_leaf = vec![true; operators.len()];
    // Of each thread, the operators that have not ended.
    let mut open: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (place, operator) in operators.iter().enumerate() {
        let open = open.entry(operator.thread).or_default();
        while open.last().is_some_and(|&outer| !operators[outer].holds(operator)) {
            open.pop();
        }
        // An operator with nothing but views inside computes by itself.
        if operator.kind == EventKind::Operator {
            for &outer in &*open {
                is_leaf[outer] = false;
            }
        }
        open.push(place);
    }
    let leaves = operators.into_iter().zip(is_leaf);
    leaves
        .filter(|(event, is_leaf)| *is_leaf && event.kind == EventKind::Operator)
        .map(|(event, _)| event)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Kind, Tensor};

    #[test]
    fn leaves_are_counted_without_views() {
        let xs = Tensor::ones([4, 4], (Kind::Float, Device::Cpu));
        let (_, events) = profile(Device::Cpu, || xs.transpose(0, 1).matmul(&xs).relu()).unwrap();
        let names: Vec<&str> = leaf_operators(&events).into_iter().map(|event| event.name.as_str()).collect();
        assert_eq!(names, ["aten::mm", "aten::clamp_min"], "{events:?}");
    }
}
