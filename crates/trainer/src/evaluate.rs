//! Evaluation by the official protocol: every expression of every ref on its own, probabilities enlarged
//! (bicubic, corners aligned), warped back to the original image, cut at the threshold.

use std::sync::Arc;

use anyhow::{Context, Result};
use metrics::{Overlap, SegmentationMetrics};
use rayon::prelude::*;
use refcoco::evaluation::{EvalItem, Query, eval_batches, queries};
use tch::Tensor;

use crate::batch::eval_tensors;
use crate::config::{Precision, Selection};
use crate::experiment::Experiment;
use crate::progress::Progress;

/// One evaluated expression.
#[derive(Debug)]
pub(crate) struct Evaluated<'a> {
    pub(crate) item: &'a EvalItem,
    pub(crate) overlap: Overlap,
    /// Probabilities in the original image, row-major.
    pub(crate) probabilities: &'a [f32],
}

/// Evaluates queries of one data set and returns their overlaps in order; `visit` sees each expression.
pub(crate) fn evaluate_queries(
    experiment: &Experiment,
    position: usize,
    queries: &[Query],
    precision: Precision,
    label: &str,
    mut visit: impl FnMut(Evaluated<'_>),
) -> Result<Vec<Overlap>> {
    let batches = eval_batches(
        Arc::clone(&experiment.datasets),
        position,
        Arc::clone(&experiment.tokenizer),
        queries,
        experiment.cfg.eval.batch_size,
        experiment.shape(),
    );
    let mut overlaps = Vec::with_capacity(queries.len());
    let mut progress = Progress::new(label, queries.len() as u64, 0);
    for batch in batches {
        let batch = batch?;
        let (images, words) = eval_tensors(&batch, experiment.device);
        let maps = probabilities(experiment, &images, &words, precision)?;
        let plane = maps.len() / batch.items.len().max(1);
        let threshold = experiment.cfg.eval.threshold;
        let results: Vec<(Overlap, Vec<f32>)> = batch
            .items
            .par_iter()
            .zip(maps.par_chunks_exact(plane))
            .map(|(item, map)| {
                let map = item.letterbox.map_to_image(map);
                (Overlap::of_probabilities(&map, threshold, &item.target.data), map)
            })
            .collect();
        for (item, (overlap, map)) in batch.items.iter().zip(&results) {
            overlaps.push(*overlap);
            visit(Evaluated { item, overlap: *overlap, probabilities: map });
        }
        progress.advance(batch.items.len() as u64, "");
    }
    Ok(overlaps)
}

/// Probabilities over the network's input square, `n * S * S` values.
pub(crate) fn probabilities(
    experiment: &Experiment,
    images: &Tensor,
    words: &Tensor,
    precision: Precision,
) -> Result<Vec<f32>> {
    let side = experiment.cfg.model.input_size;
    let maps = tch::no_grad(|| -> Result<Tensor> {
        let logits = {
            let _guard = precision.autocast(experiment.device)?;
            experiment.model.forward(images, words).logits
        };
        Ok(talent::probabilities(&logits, side))
    })?;
    Vec::<f32>::try_from(maps.contiguous().view([-1])).context("probabilities")
}

/// Evaluates a whole split of one data set.
pub(crate) fn evaluate_split(
    experiment: &Experiment,
    position: usize,
    split: &str,
    precision: Precision,
    visit: impl FnMut(Evaluated<'_>),
) -> Result<SegmentationMetrics> {
    let queries = queries(&experiment.datasets[position], split)?;
    let label = format!("eval {}", experiment.split_name(position, split));
    metrics_of(experiment, position, &queries, precision, &label, visit)
}

/// Evaluates what decides on the best model.
pub(crate) fn evaluate_for_selection(
    experiment: &Experiment,
    position: usize,
    split: &str,
    precision: Precision,
) -> Result<SegmentationMetrics> {
    let mut queries = queries(&experiment.datasets[position], split)?;
    if experiment.cfg.eval.selection == Selection::FirstExpression {
        // A ref's queries stand together.
        queries.dedup_by_key(|query| query.ref_index);
    }
    let label = format!("eval {}", experiment.split_name(position, split));
    metrics_of(experiment, position, &queries, precision, &label, |_| {})
}

fn metrics_of(
    experiment: &Experiment,
    position: usize,
    queries: &[Query],
    precision: Precision,
    label: &str,
    visit: impl FnMut(Evaluated<'_>),
) -> Result<SegmentationMetrics> {
    let overlaps = evaluate_queries(experiment, position, queries, precision, label, visit)?;
    Ok(SegmentationMetrics::from_overlaps(&overlaps))
}

/// Whether the model listens: metrics on expressions of refs with a same-category neighbour, as they are and
/// exchanged for one of that neighbour.
pub(crate) fn evaluate_exchanged(
    experiment: &Experiment,
    position: usize,
    split: &str,
    precision: Precision,
) -> Result<[SegmentationMetrics; 2]> {
    let (own, exchanged) = refcoco::evaluation::exchanged_queries(&experiment.datasets[position], split)?;
    let run =
        |queries: &[Query], label: &str| metrics_of(experiment, position, queries, precision, label, |_| {});
    Ok([run(&own, "eval own expressions")?, run(&exchanged, "eval exchanged expressions")?])
}
