//! The batches that a training would begin with, for commands that look at a few steps.

use std::sync::Arc;

use anyhow::{Result, ensure};
use refcoco::training_mix::training_mix;
use refcoco::{Batch, BatchPlan, Buffers, RefAt, training_batches};

use crate::batch::sample_options;
use crate::experiment::Experiment;

/// The first batches of a training, read ahead by other threads.
pub(crate) fn first_batches(experiment: &Experiment, n: u64) -> Result<impl Iterator<Item = Result<Batch>>> {
    let cfg = &experiment.cfg;
    let mix = training_mix(&experiment.datasets, cfg.data.keep_evaluated_images)?;
    ensure!(!mix.refs.is_empty(), "there is nothing to train on");
    let batch_size = cfg.train.batch_size.min(mix.refs.len());
    let passes = (0..).flat_map(|number| experiment.pass_over(&mix.refs, number));
    let refs: Vec<RefAt> = passes.take(n as usize * batch_size).collect();
    let plan = BatchPlan {
        batches: refs.chunks(batch_size).map(<[RefAt]>::to_vec).collect(),
        seed: cfg.seed,
        epoch: 0,
        shape: experiment.shape(),
        prefetch: 3,
        options: sample_options(cfg),
        buffers: Buffers::default(),
    };
    let loader = training_batches(Arc::clone(&experiment.datasets), Arc::clone(&experiment.tokenizer), plan);
    Ok(loader.map(|batch| Ok(batch?)))
}
