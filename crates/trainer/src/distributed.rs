//! Distributed training. Rank 0 is the leader: only it reads and writes the run's folder and prints to the user.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow, ensure};
use c10d::{Group, Reduce, Rendezvous};
use serde::Serialize;
use serde::de::DeserializeOwned;
use talent::Talent;
use tch::{Device, Tensor};
use torch_ext::across;

use crate::config::{Config, flat};
use crate::interrupt::{Interrupt, Interrupted};
use crate::panics::as_errors;

/// Values in one bucket of a broadcast or all-reduce: 100 MB in float32, which holds all gradients of the base model.
const BUCKET: usize = 25_000_000;

/// The process group that this process trains in. The default is a single process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Processes {
    group: Option<Arc<Group>>,
}

impl Processes {
    /// Joins the process group that the environment describes, if any; see [`Rendezvous::from_environment`].
    ///
    /// # Errors
    /// When a process does not join, or has another config, libtorch, kind of device or version of this program.
    pub(crate) fn join(cfg: &Config, device: Device) -> Result<Self> {
        let Some(meeting) = Rendezvous::from_environment()? else { return Ok(Self::default()) };
        let mut about = flat(cfg)?;
        // Machines may keep the encoders in different folders; all ranks get the weights that the leader has loaded.
        about.retain(|key, _| !key.starts_with("weights."));
        about.insert("the version of talent".into(), env!("CARGO_PKG_VERSION").into());
        about.insert("the version of libtorch".into(), torch_ext::version()?);
        about.insert("the kind of device".into(), if device.is_cuda() { "cuda" } else { "cpu" }.into());
        Ok(Self::of(Arc::new(Group::join(meeting, device, &about)?)))
    }

    /// Wraps a process group.
    pub(crate) fn of(group: Arc<Group>) -> Self {
        Self { group: Some(group) }
    }

    /// Turns on SyncBatchNorm: from now on the network's batch statistics cover the batches of all ranks.
    pub(crate) fn sync_batch_norms(&self, model: &Talent) {
        let group = self.group.as_ref().map(|group| Arc::<Group>::clone(group) as Arc<dyn across::Processes>);
        model.store().together().set(group);
    }

    /// The processes that share a batch, for losses; `None` for a single process.
    pub(crate) fn shared(&self) -> Option<&dyn across::Processes> {
        self.group.as_deref().map(|group| group as &dyn across::Processes)
    }

    /// Runs `work`. A failure on this rank is reported to the other ranks. After a failure on another rank, the error names
    /// that rank.
    pub(crate) fn carry_out<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let Some(group) = &self.group else { return work() };
        let result = as_errors(work);
        match &result {
            Err(error) if error.is::<Interrupted>() => {}
            Err(_) if group.has_failed() => {
                let rank = group.rank();
                return Err(anyhow!(group.blame()).context(format!("rank {rank} cannot go on")));
            }
            Err(error) => group.tell_failure(&format!("{error:#}")),
            Ok(_) => {}
        }
        result
    }

    /// The process group; `None` for a single process.
    pub(crate) fn group(&self) -> Option<&Arc<Group>> {
        self.group.as_ref()
    }

    pub(crate) fn rank(&self) -> usize {
        self.group.as_ref().map_or(0, |group| group.rank())
    }

    pub(crate) fn size(&self) -> usize {
        self.group.as_ref().map_or(1, |group| group.size())
    }

    pub(crate) fn leads(&self) -> bool {
        self.rank() == 0
    }

    /// Runs `work` on the leader first and then on the other ranks, so that they find the files that it prepares.
    pub(crate) fn leader_first<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let Some(group) = &self.group else { return work() };
        if group.rank() == 0 {
            let result = work()?;
            group.barrier()?;
            return Ok(result);
        }
        group.barrier()?;
        work()
    }

    /// Gathers one value from each rank, in rank order.
    pub(crate) fn gather<T: Serialize + DeserializeOwned>(&self, own: T) -> Result<Vec<T>> {
        let Some(group) = &self.group else { return Ok(vec![own]) };
        let all = group.gather_bytes(&serde_json::to_vec(&own)?)?;
        all.iter()
            .enumerate()
            .map(|(rank, bytes)| {
                serde_json::from_slice(bytes).with_context(|| format!("what rank {rank} sent"))
            })
            .collect()
    }

    /// Broadcasts the leader's value to all ranks.
    ///
    /// - own: must be `Some` on the leader; ignored on other ranks
    pub(crate) fn leader_value<T: Serialize + DeserializeOwned>(&self, own: Option<T>) -> Result<T> {
        let first = self.gather(own)?.into_iter().next().flatten();
        first.context("the leader has nothing to say")
    }

    /// Checks that all ranks have the same value.
    ///
    /// # Errors
    /// When a rank has another value than rank 0; the message contains `what`, the rank and both values.
    pub(crate) fn ensure_equal<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(
        &self,
        what: &str,
        own: T,
    ) -> Result<()> {
        let all = self.gather(own)?;
        for (rank, value) in all.iter().enumerate() {
            ensure!(
                *value == all[0],
                "rank {rank} differs from rank 0: {what}: {value:?} there, {:?} at rank 0",
                all[0]
            );
        }
        Ok(())
    }

    /// Broadcasts the leader's tensors to all ranks, in place.
    pub(crate) fn broadcast(&self, tensors: Vec<Tensor>) -> Result<()> {
        self.in_buckets(tensors, |group, bucket| group.broadcast(bucket, 0))
    }

    /// All-reduce (mean) of gradients over the ranks, in place.
    pub(crate) fn average_gradients(&self, gradients: Vec<Tensor>) -> Result<()> {
        let size = self.size() as f64;
        self.in_buckets(gradients, |group, bucket| {
            group.all_reduce(bucket, Reduce::Sum)?;
            let _ = bucket.g_div_scalar_(size);
            Ok(())
        })
    }

    /// All-reduce (mean) of a tensor without gradient over the ranks.
    pub(crate) fn all_reduce_mean(&self, mut xs: Tensor) -> Result<Tensor> {
        let Some(group) = &self.group else { return Ok(xs) };
        group.all_reduce(&mut xs, Reduce::Sum)?;
        Ok(xs / self.size() as f64)
    }

    /// Concatenates tensors of one dtype into flat buckets, applies `work` to each bucket, and copies the results back.
    fn in_buckets(
        &self,
        tensors: Vec<Tensor>,
        work: impl Fn(&Group, &mut Tensor) -> Result<(), c10d::Error>,
    ) -> Result<()> {
        let Some(group) = &self.group else { return Ok(()) };
        let mut left = tensors.into_iter().peekable();
        while let Some(first) = left.next() {
            let kind = first.kind();
            let mut n_values = first.numel();
            let mut bucket = vec![first];
            while let Some(next) =
                left.next_if(|next| next.kind() == kind && n_values + next.numel() <= BUCKET)
            {
                n_values += next.numel();
                bucket.push(next);
            }
            tch::no_grad(|| -> Result<()> {
                let mut flat =
                    Tensor::cat(&bucket.iter().map(|one| one.reshape([-1])).collect::<Vec<_>>(), 0);
                work(group, &mut flat)?;
                let mut start = 0;
                for one in &mut bucket {
                    let n = one.numel() as i64;
                    one.copy_(&flat.narrow(0, start, n).view_as(one));
                    start += n;
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Checks whether a signal has reached any rank (all-reduce); all ranks get the same answer.
    ///
    /// # Errors
    /// [`Interrupted`] after a signal.
    pub(crate) fn check(&self, interrupt: &Interrupt) -> Result<()> {
        let Some(group) = &self.group else { return Ok(interrupt.check()?) };
        let own = interrupt.check().err().map_or(0, Interrupted::signal);
        let mut signal = Tensor::from(i64::from(own));
        group.all_reduce(&mut signal, Reduce::Max)?;
        match i64::try_from(signal)? {
            0 => Ok(()),
            signal => Err(Interrupted::new(signal as u8).into()),
        }
    }

    /// This rank's share of a batch that goes through the network in `n_parts` parts (gradient accumulation). The share is the
    /// rank-th piece of each part, so that all ranks together compute what one process would.
    ///
    /// # Errors
    /// When the batch cannot be divided evenly.
    pub(crate) fn share_of<T: Clone>(&self, batch: &[T], n_parts: usize) -> Result<Vec<T>> {
        let (size, rank) = (self.size(), self.rank());
        if size == 1 {
            return Ok(batch.to_vec());
        }
        let pieces = size * n_parts.max(1);
        ensure!(
            batch.len().is_multiple_of(pieces),
            "{} samples a step cannot be divided among {size} processes with train.accumulate = {n_parts}; choose a \
             train.batch_size that is a multiple of {pieces}",
            batch.len()
        );
        let piece = batch.len() / pieces;
        let mine = batch.chunks(piece.max(1)).enumerate().filter(|(place, _)| place % size == rank);
        Ok(mine.flat_map(|(_, piece)| piece.to_vec()).collect())
    }

    /// Seeds libtorch's RNG on all ranks but the leader from seed, step and rank. Dropout must differ between ranks, and a
    /// checkpoint holds only the leader's RNG state.
    pub(crate) fn seed_step(&self, seed: u64, step: u64) {
        if !self.leads() {
            use rand::Rng;
            const LABEL: u64 = 2;
            let mut stream = refcoco::sampler::stream(seed, [LABEL, step, self.rank() as u64]);
            tch::manual_seed(stream.random::<i64>());
        }
    }
}

/// Refuses a single-process command that was launched in several processes.
///
/// # Errors
/// When the environment describes more than one process.
pub(crate) fn refuse_several() -> Result<()> {
    let size = Rendezvous::from_environment()?.map_or(1, |meeting| meeting.size);
    ensure!(
        size == 1,
        "this is the work of one process; `train` and `bench step` can be launched in several"
    );
    Ok(())
}

/// Index of the GPU that the launcher assigns to this process (its local rank).
pub(crate) fn local_device() -> Result<usize> {
    Ok(Rendezvous::from_environment()?.map_or(0, |meeting| meeting.local_rank))
}

#[cfg(test)]
mod tests;
