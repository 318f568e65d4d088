//! Non-target activation of features (NTA): the share of the response to the sentence that lies on distractors, in each adapter
//! and on each level of the neck. Shows where in the network the target is lost.
//!
//! The response is the dot product of sentence and pixel features, with negative values set to 0. In the neck these are the
//! projected sentence and the fused features; in an adapter, the end token and the patches in the common width of its
//! cross-modal unit. Each object counts with the share that it covers of each patch.

use std::sync::Arc;

use anyhow::Result;
use command_kit::Progress;
use metrics::response_nta;
use rayon::prelude::*;
use refcoco::evaluation::{EvalItem, eval_batches, queries};
use refcoco::letterbox::object_shares;
use serde::Serialize;
use talent::Pass;
use tch::{Kind, Tensor};

use crate::adapter_responses::AdapterPatches;
use crate::batch::EvalTensors;
use crate::config::Precision;
use crate::experiment::Experiment;

/// NTA at one place in the network.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct StageNta {
    /// Name, for example `adapter in block 3` or `neck level 5`, numbered as in the official names.
    pub(crate) stage: String,
    /// Mean share on distractors in percent; `None` if it is defined for no expression.
    pub(crate) feature_nta: Option<f64>,
    /// Number of expressions with a distractor.
    pub(crate) n_with_distractors: usize,
    /// Number of those without any response on target and distractors.
    pub(crate) n_undefined: usize,
}

/// Measures every stage over the expressions of a split that have a distractor.
pub(crate) fn feature_nta(
    experiment: &Experiment,
    position: usize,
    split: &str,
    precision: Precision,
) -> Result<Vec<StageNta>> {
    let dataset = &experiment.datasets[position];
    let mut queries = queries(dataset, split)?;
    queries.retain(|query| !dataset.distractors(&dataset.refs[query.ref_index]).is_empty());
    let batches = eval_batches(
        Arc::clone(&experiment.datasets),
        position,
        Arc::clone(&experiment.tokenizer),
        &queries,
        experiment.cfg.eval.batch_size,
        experiment.shape(),
    );
    let label = format!("features of {}", experiment.split_name(position, split));
    let mut progress = Progress::new(&label, queries.len() as u64, 0);
    let side = experiment.cfg.model.grid() as usize;
    let mut found: Vec<(String, Vec<Option<f64>>)> = Vec::new();
    for batch in batches {
        let batch = batch?;
        let tensors = EvalTensors::new(&batch, experiment.device)?;
        let maps = tch::no_grad(|| -> Result<Vec<Response>> {
            let _guard = precision.autocast(experiment.device)?;
            Ok(responses(experiment, &tensors, &[]))
        })?;
        let shares: Vec<[Vec<f32>; 2]> = batch.items.par_iter().map(|item| shares(item, side)).collect();
        for (stage, Response { stage: name, map, .. }) in maps.into_iter().enumerate() {
            let values = Vec::<f32>::try_from(map.to_kind(Kind::Float).contiguous().view([-1]))?;
            if found.len() <= stage {
                found.push((name, Vec::new()));
            }
            let ratios = values.chunks_exact(side * side).zip(&shares);
            found[stage]
                .1
                .extend(ratios.map(|(map, [target, distractors])| response_nta(map, target, distractors)));
        }
        progress.advance(batch.items.len() as u64, "");
    }
    Ok(found.into_iter().map(|(stage, ratios)| summarise(stage, &ratios)).collect())
}

/// A response somewhere in the network.
#[derive(Debug)]
pub(crate) struct Response {
    /// Where, for example `adapter in block 3` or `neck level 5`, numbered as in the official names.
    pub(crate) stage: String,
    /// Index of the word that is responded to; `None` for the whole sentence.
    pub(crate) word: Option<usize>,
    /// `[batch, H * W]`, non-negative.
    pub(crate) map: Tensor,
}

/// Responses to the sentence at every stage, then those of the adapters to each word.
///
/// - words: the places of each word's tokens; a word's response is the mean over these
pub(crate) fn responses(
    experiment: &Experiment,
    batch: &EvalTensors,
    words: &[std::ops::Range<usize>],
) -> Vec<Response> {
    let patches = AdapterPatches::default();
    let EvalTensors { images, image_of, words: ids } = batch;
    let images = images.index_select(0, image_of);
    let observe = |stage, value: &Tensor| patches.observe(stage, value);
    let model = &experiment.model;
    let output = model.forward(&images, ids, &Pass { observe: &observe, ..Pass::EVAL });
    let of_adapters = |word: Option<usize>, found: Vec<(usize, Tensor)>| {
        found.into_iter().map(move |(block, response)| Response {
            stage: format!("adapter in block {block}"),
            word,
            map: response.relu(),
        })
    };
    let mut found: Vec<Response> = of_adapters(None, patches.responses(model, &output.words, ids)).collect();
    let sentence = output.neck.sentence.unsqueeze(1);
    let levels = output.neck.fused.iter().zip(3..).map(|(level, number)| {
        let answer = sentence.bmm(&level.flatten(2, 3)).squeeze_dim(1);
        Response { stage: format!("neck level {number}"), word: None, map: answer.relu() }
    });
    found.extend(levels);
    for (index, tokens) in words.iter().enumerate() {
        let (start, n) = (tokens.start as i64, tokens.len() as i64);
        let word = output.words.narrow(1, start, n).mean_dim(1, false, None::<Kind>);
        found.extend(of_adapters(Some(index), patches.responses_to(model, &word)));
    }
    found
}

fn shares(item: &EvalItem, side: usize) -> [Vec<f32>; 2] {
    object_shares(&item.letterbox, &item.target, item.distractors.iter(), side)
}

fn summarise(stage: String, ratios: &[Option<f64>]) -> StageNta {
    let defined: Vec<f64> = ratios.iter().copied().flatten().collect();
    StageNta {
        stage,
        feature_nta: (!defined.is_empty())
            .then(|| 100.0 * defined.iter().sum::<f64>() / defined.len() as f64),
        n_with_distractors: ratios.len(),
        n_undefined: ratios.len() - defined.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_leave_out_what_is_undefined() {
        let found = summarise("neck level 3".into(), &[Some(0.25), None, Some(0.75)]);
        assert_eq!((found.feature_nta, found.n_with_distractors, found.n_undefined), (Some(50.0), 3, 1));
    }
}
