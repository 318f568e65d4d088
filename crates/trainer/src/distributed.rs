//! The processes that train together. Rank 0 leads: it alone reads and writes the run's folder and speaks to the user.

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

/// Values that travel together: 100 MB in float32, all gradients of the base model.
const BUCKET: usize = 25_000_000;

/// This process among those it trains with; by default alone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Processes {
    group: Option<Arc<Group>>,
}

impl Processes {
    /// Meets the other processes if the environment speaks of any, see [`Rendezvous::from_environment`].
    ///
    /// # Errors
    /// When one does not come, or has another config, libtorch or version of this program.
    pub(crate) fn join(cfg: &Config, device: Device) -> Result<Self> {
        let Some(meeting) = Rendezvous::from_environment()? else { return Ok(Self::default()) };
        let mut about = flat(cfg)?;
        // Machines may keep the encoders in different places; what counts is what the leader has loaded.
        about.retain(|key, _| !key.starts_with("weights."));
        about.insert("the version of talent".into(), env!("CARGO_PKG_VERSION").into());
        about.insert("the version of libtorch".into(), torch_ext::version()?);
        about.insert("the kind of device".into(), if device.is_cuda() { "cuda" } else { "cpu" }.into());
        Ok(Self::of(Arc::new(Group::join(meeting, device, &about)?)))
    }

    /// The processes of a group.
    pub(crate) fn of(group: Arc<Group>) -> Self {
        Self { group: Some(group) }
    }

    /// Lets a network's batch statistics go over the batches of all processes from now on.
    pub(crate) fn share_batches(&self, model: &Talent) {
        let group = self.group.as_ref().map(|group| Arc::<Group>::clone(group) as Arc<dyn across::Processes>);
        model.store().together().set(group);
    }

    /// Those that a batch is shared with, for losses.
    pub(crate) fn shared(&self) -> Option<&dyn across::Processes> {
        self.group.as_deref().map(|group| group as &dyn across::Processes)
    }

    /// Does the processes' work; if it fails, the error says which of them is at fault.
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

    /// The connections, if there is more than this process.
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

    /// What prepares files: the leader goes first, so that the others find them.
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

    /// What each process has, in the order of their ranks.
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

    /// What the leader has.
    ///
    /// - own: only the leader's counts, which must be some
    pub(crate) fn leaders<T: Serialize + DeserializeOwned>(&self, own: Option<T>) -> Result<T> {
        let first = self.gather(own)?.into_iter().next().flatten();
        first.context("the leader has nothing to say")
    }

    /// # Errors
    /// When the processes do not have the same.
    pub(crate) fn agree<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(
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

    /// Overwrites tensors with the leader's.
    pub(crate) fn share(&self, tensors: Vec<Tensor>) -> Result<()> {
        self.in_buckets(tensors, |group, bucket| group.broadcast(bucket, 0))
    }

    /// Replaces gradients by their mean over the processes.
    pub(crate) fn mean(&self, gradients: Vec<Tensor>) -> Result<()> {
        let size = self.size() as f64;
        self.in_buckets(gradients, |group, bucket| {
            group.all_reduce(bucket, Reduce::Sum)?;
            let _ = bucket.g_div_scalar_(size);
            Ok(())
        })
    }

    /// The mean over the processes of a tensor without gradient.
    pub(crate) fn mean_of(&self, mut xs: Tensor) -> Result<Tensor> {
        let Some(group) = &self.group else { return Ok(xs) };
        group.all_reduce(&mut xs, Reduce::Sum)?;
        Ok(xs / self.size() as f64)
    }

    /// Joins tensors of one dtype in flat buckets, works on those, and copies them back.
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

    /// Whether a signal has reached any of the processes; all get the same answer.
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

    /// This process's share of a batch of which every `n_parts`-th part goes through the network at once: of each part
    /// the rank-th piece, so that together the processes do what one would.
    ///
    /// # Errors
    /// When it cannot be divided.
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

    /// Draws of other processes than the leader come from a stream of their own, which step and seed fix: dropout must not
    /// drop the same everywhere, and a checkpoint holds only the leader's state.
    pub(crate) fn seed_step(&self, seed: u64, step: u64) {
        if !self.leads() {
            use rand::Rng;
            const LABEL: u64 = 2;
            let mut stream = refcoco::sampler::stream(seed, [LABEL, step, self.rank() as u64]);
            tch::manual_seed(stream.random::<i64>());
        }
    }
}

/// Refuses work that one process does, in the environment of several.
///
/// # Errors
/// When the environment speaks of more than one process.
pub(crate) fn refuse_several() -> Result<()> {
    let size = Rendezvous::from_environment()?.map_or(1, |meeting| meeting.size);
    ensure!(
        size == 1,
        "this is the work of one process; `train` and `bench step` can be launched in several"
    );
    Ok(())
}

/// The GPU that a launcher gives this process.
pub(crate) fn local_device() -> Result<usize> {
    Ok(Rendezvous::from_environment()?.map_or(0, |meeting| meeting.local_rank))
}

#[cfg(test)]
pub(crate) mod tests;
