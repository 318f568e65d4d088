//! Evaluation by the official protocol (specification, section 10): each expression of each ref is evaluated separately.
//! Probabilities are upsampled (bicubic, corners aligned), warped back to the original image, and thresholded.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use anyhow::{Context, Result, anyhow};
use command_kit::Progress;
use command_kit::{covered, evaluated};
use metrics::{Activation, Evaluated, SplitReport};
use rayon::prelude::*;
use refcoco::Mask;
use refcoco::evaluation::{EvalBatch, EvalItem, Query, eval_batches};
use talent::Pass;
use tch::Tensor;
use torch_ext::Download;

use crate::batch::EvalTensors;
use crate::config::{Precision, Selection};
use crate::experiment::{EvalScope, Experiment};
use crate::panics::message;

/// The prediction for one expression.
#[derive(Debug)]
pub(crate) struct Prediction<'a> {
    pub(crate) item: &'a EvalItem,
    pub(crate) activation: &'a Activation,
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

/// Evaluates queries of one data set, in order; `visit` gets each prediction with its query's place. With several processes the
/// ranks take turns with the batches, which are the same as for one process. All ranks return all results; `visit` sees only
/// those of its own rank.
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
    // A second thread warps back and measures the maps of one batch while the network computes the next.
    let done = std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel::<(EvalBatch, Download)>(1);
        let measuring = scope.spawn(move || {
            let mut done = Vec::new();
            for (batch, maps) in receiver {
                let measured = measure(&batch, &values(maps)?, threshold);
                for ((item, one), place) in batch.items.iter().zip(measured).zip(&mut places) {
                    let Measured { activation, box_iou, map } = one;
                    visit(place, Prediction { item, activation: &activation, probabilities: &map });
                    done.push((place, evaluated(dataset, &item.query, activation, box_iou)));
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
    Ok(merge_by_place(processes.gather(done)?).into_iter().map(|(_, evaluated)| evaluated).collect())
}

/// Sends each batch with its probability maps, until the receiver is gone.
fn predict_batches(
    experiment: &Experiment,
    batches: impl Iterator<Item = refcoco::Result<EvalBatch>>,
    precision: Precision,
    sender: &SyncSender<(EvalBatch, Download)>,
) -> Result<()> {
    for batch in batches {
        // Several ranks check for signals together, after their last batch. If one stopped alone, the others would wait for it
        // forever.
        if experiment.processes.size() == 1 {
            experiment.interrupt.check()?;
        }
        let batch = batch?;
        let tensors = EvalTensors::new(&batch, experiment.device)?;
        let maps = probabilities(experiment, &tensors, precision)?;
        // Fails only if the measuring thread failed; joining that thread reports its error.
        if sender.send((batch, maps)).is_err() {
            break;
        }
    }
    Ok(())
}

/// Merges the results of all ranks, sorted by place.
pub(crate) fn merge_by_place<T>(shares: Vec<Vec<(usize, T)>>) -> Vec<(usize, T)> {
    let mut all: Vec<(usize, T)> = shares.into_iter().flatten().collect();
    all.sort_by_key(|(place, _)| *place);
    all
}

/// What one prediction covers.
struct Measured {
    activation: Activation,
    box_iou: Option<f64>,
    /// Probabilities in the original image.
    map: Vec<f32>,
}

/// Warps each map back to its image, and measures what it covers.
fn measure(batch: &EvalBatch, maps: &[f32], threshold: f32) -> Vec<Measured> {
    let plane = (maps.len() / batch.items.len().max(1)).max(1);
    batch
        .items
        .par_iter()
        .zip(maps.par_chunks_exact(plane))
        .map(|(item, map)| {
            let mut map = item.letterbox.map_to_image(map);
            let (activation, box_iou, _) =
                covered(&mut map, threshold, &item.target, &item.distractors, item.ignored.as_deref());
            Measured { activation, box_iou, map }
        })
        .collect()
}

/// Probabilities over the network's input square, `[n, S, S]`, as an asynchronous copy to the host.
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

/// Waits for the copy and returns its values, row-major.
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
    let queries = experiment.queries(position, split)?;
    let label = format!("eval {}", experiment.split_name(position, split));
    evaluate_queries(experiment, position, &queries, precision, &label, visit)
}

/// The expressions that select the best model (`eval.selection`).
pub(crate) fn selecting_queries(experiment: &Experiment, position: usize, split: &str) -> Result<Vec<Query>> {
    let mut queries = experiment.queries(position, split)?;
    if experiment.cfg.eval.selection == Selection::FirstExpression {
        // The queries of one ref are adjacent.
        queries.dedup_by_key(|query| query.ref_index);
    }
    Ok(queries)
}

/// Labels of the two reports of [`evaluate_exchanged`], appended to the split's name.
pub(crate) const EXCHANGED: [&str; 2] = ["with same-category rival", "expression exchanged"];

/// Tests whether the model uses the text. Reports metrics on refs with a same-category neighbour in the image, first with their
/// own expressions, then with these exchanged for an expression of that neighbour.
pub(crate) fn evaluate_exchanged(
    experiment: &Experiment,
    position: usize,
    split: &str,
    precision: Precision,
) -> Result<[SplitReport; 2]> {
    if matches!(experiment.scope, EvalScope::Refs(_)) {
        return Ok([SplitReport::new(&[]), SplitReport::new(&[])]);
    }
    let (mut own, mut exchanged) =
        refcoco::evaluation::exchanged_queries(&experiment.datasets[position], split)?;
    experiment.cut(&mut own);
    experiment.cut(&mut exchanged);
    let run = |queries: &[Query], label: &str| -> Result<SplitReport> {
        let evaluated = evaluate_queries(experiment, position, queries, precision, label, |_, _| {})?;
        Ok(SplitReport::new(&evaluated))
    };
    Ok([run(&own, "eval own expressions")?, run(&exchanged, "eval exchanged expressions")?])
}
