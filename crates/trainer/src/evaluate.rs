//! Evaluation by the official protocol: every expression of every ref on its own, probabilities enlarged
//! (bicubic, corners aligned), warped back to the original image, cut at the threshold.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use anyhow::{Context, Result, anyhow};
use command_kit::Progress;
use command_kit::evaluated;
use metrics::{Activation, Evaluated, SplitReport};
use rayon::prelude::*;
use refcoco::Mask;
use refcoco::evaluation::{EvalBatch, EvalItem, Query, eval_batches, queries};
use talent::Pass;
use tch::Tensor;
use torch_ext::Download;

use crate::batch::EvalTensors;
use crate::config::{Precision, Selection};
use crate::experiment::Experiment;
use crate::panics::message;

/// The prediction for one expression.
#[derive(Debug)]
pub(crate) struct Prediction<'a> {
    pub(crate) item: &'a EvalItem,
    pub(crate) iou: f64,
    /// Probabilities in the original image, row-major.
    pub(crate) probabilities: &'a [f32],
}

impl Prediction<'_> {
    /// The predicted foreground in the original image.
    pub(crate) fn mask(&self, threshold: f32) -> Mask {
        let image = &self.item.image;
        Mask::above(image.width, image.height, self.probabilities, threshold)
    }
}

/// Evaluates queries of one data set, in order; `visit` sees each prediction with its query's place. Several processes take
/// turns with the batches, so that each is what it would be for one; all return the same, `visit` sees the own ones.
pub(crate) fn evaluate_queries(
    experiment: &Experiment,
    position: usize,
    queries: &[Query],
    precision: Precision,
    label: &str,
    mut visit: impl FnMut(usize, Prediction<'_>) + Send,
) -> Result<Vec<Evaluated>> {
    let processes = &experiment.processes;
    let turn_of = |place: usize| place / experiment.cfg.eval.batch_size.max(1);
    let mine = |place: &usize| turn_of(*place) % processes.size() == processes.rank();
    let places: Vec<usize> = (0..queries.len()).filter(mine).collect();
    let own: Vec<Query> = places.iter().map(|&place| queries[place].clone()).collect();
    let batches = eval_batches(
        Arc::clone(&experiment.datasets),
        position,
        Arc::clone(&experiment.tokenizer),
        &own,
        experiment.cfg.eval.batch_size,
        experiment.shape(),
    );
    let dataset = &experiment.datasets[position];
    let threshold = experiment.cfg.eval.threshold;
    let mut progress = processes.leads().then(|| Progress::new(label, own.len() as u64, 0));
    let mut places = places.into_iter();
    // The maps of one batch are warped back and measured while the network is at the next.
    let done = std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel::<(EvalBatch, Download)>(1);
        let measuring = scope.spawn(move || {
            let mut done = Vec::new();
            for (batch, maps) in receiver {
                let measured = measure(&batch, &values(maps)?, threshold);
                for ((item, (activation, map)), place) in batch.items.iter().zip(measured).zip(&mut places) {
                    visit(place, Prediction { item, iou: activation.overlap.iou(), probabilities: &map });
                    done.push((place, evaluated(dataset, &item.query, activation)));
                }
                if let Some(progress) = &mut progress {
                    progress.advance(batch.items.len() as u64, "");
                }
            }
            Ok::<_, anyhow::Error>(done)
        });
        let predicted = predict_batches(experiment, batches, precision, &sender);
        drop(sender);
        let done =
            measuring.join().map_err(|panic| anyhow!("measuring the predictions: {}", message(&*panic)));
        predicted.and(done.flatten())
    })?;
    if processes.size() > 1 {
        processes.check(&experiment.interrupt)?;
    }
    Ok(joined(processes.gather(done)?).into_iter().map(|(_, evaluated)| evaluated).collect())
}

/// Sends each batch with its probability maps, until nobody listens.
fn predict_batches(
    experiment: &Experiment,
    batches: impl Iterator<Item = refcoco::Result<EvalBatch>>,
    precision: Precision,
    sender: &SyncSender<(EvalBatch, Download)>,
) -> Result<()> {
    for batch in batches {
        // Several processes stop together, or some would wait for the others in vain.
        if experiment.processes.size() == 1 {
            experiment.interrupt.check()?;
        }
        let batch = batch?;
        let tensors = EvalTensors::new(&batch, experiment.device)?;
        let maps = probabilities(experiment, &tensors, precision)?;
        // Fails only if measuring did, which joining it reports.
        if sender.send((batch, maps)).is_err() {
            break;
        }
    }
    Ok(())
}

/// What several processes have of a whole, in order of its places.
pub(crate) fn joined<T>(shares: Vec<Vec<(usize, T)>>) -> Vec<(usize, T)> {
    let mut all: Vec<(usize, T)> = shares.into_iter().flatten().collect();
    all.sort_by_key(|(place, _)| *place);
    all
}

/// Each prediction in its image's pixels, and what it covers.
fn measure(batch: &EvalBatch, maps: &[f32], threshold: f32) -> Vec<(Activation, Vec<f32>)> {
    let plane = (maps.len() / batch.items.len().max(1)).max(1);
    batch
        .items
        .par_iter()
        .zip(maps.par_chunks_exact(plane))
        .map(|(item, map)| {
            let map = item.letterbox.map_to_image(map);
            let distractors: Vec<&[u8]> = item.distractors.iter().map(|mask| mask.data.as_slice()).collect();
            (Activation::of_probabilities(&map, threshold, &item.target.data, &distractors), map)
        })
        .collect()
}

/// Probabilities over the network's input square, `[n, S, S]`, on their way to the host.
pub(crate) fn probabilities(
    experiment: &Experiment,
    batch: &EvalTensors,
    precision: Precision,
) -> Result<Download> {
    let side = experiment.cfg.model.input_size;
    let maps = tch::no_grad(|| -> Result<Tensor> {
        let logits = {
            let _guard = precision.autocast(experiment.device)?;
            let pass = Pass { image_of: Some(&batch.image_of), ..Pass::EVAL };
            experiment.model.forward(&batch.images, &batch.words, &pass).logits
        };
        Ok(talent::probabilities(&logits, side))
    })?;
    Ok(Download::start(&maps)?)
}

/// The values of probabilities that have arrived, row-major.
pub(crate) fn values(maps: Download) -> Result<Vec<f32>> {
    Vec::<f32>::try_from(maps.wait()?.contiguous().view([-1])).context("probabilities")
}

/// Evaluates a whole split of one data set.
pub(crate) fn evaluate_split(
    experiment: &Experiment,
    position: usize,
    split: &str,
    precision: Precision,
    visit: impl FnMut(usize, Prediction<'_>) + Send,
) -> Result<Vec<Evaluated>> {
    let queries = queries(&experiment.datasets[position], split)?;
    let label = format!("eval {}", experiment.split_name(position, split));
    evaluate_queries(experiment, position, &queries, precision, &label, visit)
}

/// Evaluates what decides on the best model.
pub(crate) fn evaluate_for_selection(
    experiment: &Experiment,
    position: usize,
    split: &str,
    precision: Precision,
) -> Result<SplitReport> {
    let mut queries = queries(&experiment.datasets[position], split)?;
    if experiment.cfg.eval.selection == Selection::FirstExpression {
        // A ref's queries stand together.
        queries.dedup_by_key(|query| query.ref_index);
    }
    let label = format!("eval {}", experiment.split_name(position, split));
    let evaluated = evaluate_queries(experiment, position, &queries, precision, &label, |_, _| {})?;
    Ok(SplitReport::new(&evaluated))
}

/// What the two reports of [`evaluate_exchanged`] are called behind a split's name.
pub(crate) const EXCHANGED: [&str; 2] = ["with same-category rival", "expression exchanged"];

/// Whether the model listens: metrics on expressions of refs with a same-category neighbour, as they are and
/// exchanged for one of that neighbour.
pub(crate) fn evaluate_exchanged(
    experiment: &Experiment,
    position: usize,
    split: &str,
    precision: Precision,
) -> Result<[SplitReport; 2]> {
    let (own, exchanged) = refcoco::evaluation::exchanged_queries(&experiment.datasets[position], split)?;
    let run = |queries: &[Query], label: &str| -> Result<SplitReport> {
        let evaluated = evaluate_queries(experiment, position, queries, precision, label, |_, _| {})?;
        Ok(SplitReport::new(&evaluated))
    };
    Ok([run(&own, "eval own expressions")?, run(&exchanged, "eval exchanged expressions")?])
}
