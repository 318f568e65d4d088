//! All-reduces gradients in buckets during the backward pass, as PyTorch's `DistributedDataParallel` does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Result, ensure};
use c10d::{Group, PendingReduce, Reduce};
use cli_kit::errln;
use tch::Tensor;
use torch_ext::{Adam, GradientHooks};

use crate::distributed::Processes;

/// Values in a bucket: 25 MB in float32, PyTorch's default. Smaller buckets start earlier and cost more latency.
const BUCKET: usize = 6_250_000;

/// All-reduces each bucket of gradients as soon as it is complete.
#[derive(Debug)]
pub(crate) struct GradientBuckets {
    shared: Arc<Mutex<Shared>>,
    _hooks: GradientHooks,
}

/// State that the gradient hooks share.
#[derive(Debug)]
struct Shared {
    group: Arc<Group>,
    parameters: Vec<Tensor>,
    /// Indices of the parameters in each bucket, in the order in which the buckets are reduced.
    buckets: Vec<Vec<usize>>,
    /// For each parameter, the index of its bucket.
    bucket_of: Vec<usize>,
    pass: Option<Pass>,
}

/// State of one backward pass.
#[derive(Debug)]
struct Pass {
    /// For each bucket, the number of gradients still missing.
    missing: Vec<usize>,
    /// First bucket whose all-reduce has not been started.
    next: usize,
    pending: Vec<PendingReduce>,
    failure: Option<c10d::Error>,
}

/// Divides parameter indices into buckets. The last parameters come first, because the backward pass begins with them.
fn buckets(sizes: &[usize], limit: usize) -> Vec<Vec<usize>> {
    let mut buckets: Vec<Vec<usize>> = Vec::new();
    let mut filled = limit;
    for (place, size) in sizes.iter().enumerate().rev() {
        if filled + size > limit {
            buckets.push(Vec::new());
            filled = 0;
        }
        filled += size;
        if let Some(bucket) = buckets.last_mut() {
            bucket.push(place);
        }
    }
    buckets
}

impl GradientBuckets {
    /// Makes buckets for the parameters of an optimiser; all ranks must call this together. `None` for a single process, which
    /// has nothing to reduce.
    ///
    /// # Errors
    /// When a process is lost.
    pub(crate) fn new(processes: &Processes, adam: &Adam) -> Result<Option<Self>> {
        Self::of_size(processes, adam, BUCKET)
    }

    /// As [`GradientBuckets::new`], with at most `limit` values in a bucket; a larger parameter is a bucket by itself.
    pub(crate) fn of_size(processes: &Processes, adam: &Adam, limit: usize) -> Result<Option<Self>> {
        let Some(group) = processes.group() else {
            errln!("note: --overlap-all-reduce has nothing to do in one process");
            return Ok(None);
        };
        group.connect_beside()?;
        let parameters: Vec<Tensor> = adam.params().iter().map(Tensor::shallow_clone).collect();
        let sizes: Vec<usize> = parameters.iter().map(Tensor::numel).collect();
        let buckets = buckets(&sizes, limit);
        let mut bucket_of = vec![0; parameters.len()];
        for (number, bucket) in buckets.iter().enumerate() {
            bucket.iter().for_each(|&place| bucket_of[place] = number);
        }
        let shared = Shared { group: Arc::clone(group), parameters, buckets, bucket_of, pass: None };
        let shared = Arc::new(Mutex::new(shared));
        let hooked = Arc::clone(&shared);
        let hooks = GradientHooks::new(&lock(&shared).parameters, move |place| {
            lock(&hooked).gradient_is_ready(place)
        })?;
        Ok(Some(Self { shared, _hooks: hooks }))
    }

    /// Call before the last backward pass of a step: its gradients are reduced.
    pub(crate) fn begin(&self) {
        let mut shared = lock(&self.shared);
        let missing = shared.buckets.iter().map(Vec::len).collect();
        shared.pass = Some(Pass { missing, next: 0, pending: Vec::new(), failure: None });
    }

    /// Waits for all buckets, and replaces the gradients by their mean over the ranks.
    pub(crate) fn finish(&self) -> Result<()> {
        let mut shared = lock(&self.shared);
        // Start the remaining buckets, which have parameters without a gradient in this pass.
        shared.start(|_| true);
        let Some(pass) = shared.pass.take() else { return Ok(()) };
        if let Some(failure) = pass.failure {
            return Err(failure.into());
        }
        ensure!(pass.pending.len() == shared.buckets.len(), "a bucket of gradients was not reduced");
        for (bucket, pending) in shared.buckets.iter().zip(pass.pending) {
            let mut flat = shared.group.finish_all_reduce(pending)?;
            tch::no_grad(|| shared.write_back_mean(bucket, &mut flat));
        }
        Ok(())
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn gradient_is_ready(&mut self, place: usize) {
        let bucket = self.bucket_of[place];
        let Some(pass) = &mut self.pass else { return };
        pass.missing[bucket] = pass.missing[bucket].saturating_sub(1);
        self.start(|missing| missing == 0);
    }

    /// Starts the all-reduce of ready buckets, in bucket order: the order of gradients may differ between ranks.
    fn start(&mut self, ready: impl Fn(usize) -> bool) {
        let Self { group, parameters, buckets, pass: Some(pass), .. } = self else { return };
        while pass.failure.is_none() && pass.next < buckets.len() && ready(pass.missing[pass.next]) {
            match group.start_all_reduce(flat(parameters, &buckets[pass.next]), Reduce::Sum) {
                Ok(pending) => pass.pending.push(pending),
                Err(error) => pass.failure = Some(error),
            }
            pass.next += 1;
        }
    }

    /// Divides the sum by the world size and copies it back into the gradients.
    fn write_back_mean(&self, bucket: &[usize], flat: &mut Tensor) {
        let _ = flat.g_div_scalar_(self.group.size() as f64);
        let mut start = 0;
        for &place in bucket {
            let parameter = &self.parameters[place];
            let n = parameter.numel() as i64;
            let mut gradient = parameter.grad();
            if gradient.defined() {
                gradient.copy_(&flat.narrow(0, start, n).view_as(&gradient));
            }
            start += n;
        }
    }
}

/// The gradients of a bucket, concatenated; zeros for a parameter without gradient.
fn flat(parameters: &[Tensor], bucket: &[usize]) -> Tensor {
    let of = |&place: &usize| {
        let gradient = parameters[place].grad();
        match gradient.defined() {
            true => gradient.reshape([-1]),
            false => parameters[place].detach().zeros_like().reshape([-1]),
        }
    };
    tch::no_grad(|| Tensor::cat(&bucket.iter().map(of).collect::<Vec<_>>(), 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_every_parameter_once_and_the_last_come_first() {
        assert_eq!(buckets(&[3, 4, 9, 2, 2], 5), [vec![4, 3], vec![2], vec![1], vec![0]]);
        assert_eq!(buckets(&[1, 1, 1], 5), [vec![2, 1, 0]]);
        assert!(buckets(&[], 5).is_empty());
    }
}
