//! Evaluation data: every expression of every ref of a split is one query.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rayon::prelude::*;

use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::image_file::RgbImage;
use crate::letterbox::Letterbox;
use crate::loader::SampleShape;
use crate::mask::Mask;
use crate::prefetch::Prefetch;
use crate::tokenizer::Tokenizer;
use crate::unreadable::has_text;

/// One expression to evaluate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Index of the ref whose objects are the target.
    pub ref_index: usize,
    /// Id of the expression.
    pub sent_id: i64,
    /// Text that the model receives.
    pub text: String,
}

/// Lists the queries of a split: every expression of every ref, but for what [`Dataset::leave_out_unreadable`] left out.
///
/// # Errors
/// When the split does not exist.
pub fn queries(dataset: &Dataset, split: &str) -> Result<Vec<Query>> {
    Ok(queries_of(dataset, dataset.split(split)?))
}

/// Lists the queries of some refs, as [`queries`] does for those of a split.
///
/// - refs: indices into [`Dataset::refs`]
pub fn queries_of(dataset: &Dataset, refs: Vec<usize>) -> Vec<Query> {
    let left_out = dataset.left_out_refs();
    let of_ref = |ref_index: usize| {
        let expressions = &dataset.refs[ref_index].expressions;
        let asked = expressions.iter().filter(|expression| left_out.is_none() || has_text(expression));
        asked.map(move |expression| Query {
            ref_index,
            sent_id: expression.sent_id,
            text: expression.sent.clone(),
        })
    };
    let stays = |index: &usize| left_out.is_none_or(|left_out| !left_out.refs.contains_key(index));
    refs.into_iter().filter(stays).flat_map(of_ref).collect()
}

/// Pairs of queries that test whether a model uses the text. The first list has the expressions of refs that share image and
/// category with another ref. The second replaces each of them by an expression of that other ref and keeps the target, so a
/// model that follows the text must fail on it.
///
/// # Errors
/// When the split does not exist.
pub fn exchanged_queries(dataset: &Dataset, split: &str) -> Result<(Vec<Query>, Vec<Query>)> {
    let (mut own, mut exchanged) = (Vec::new(), Vec::new());
    for query in queries(dataset, split)? {
        let reference = &dataset.refs[query.ref_index];
        let rivals = dataset.refs_in_image(reference.image_id).iter().map(|&index| &dataset.refs[index]);
        let texts: Vec<&str> = rivals
            .filter(|rival| rival.category_ids == reference.category_ids && !rival.shares_target(reference))
            .flat_map(|rival| rival.expressions.iter().map(|expression| expression.sent.as_str()))
            .filter(|text| reference.expressions.iter().all(|expression| expression.sent != *text))
            .collect();
        if !texts.is_empty() {
            let text = texts[query.sent_id.unsigned_abs() as usize % texts.len()].to_owned();
            exchanged.push(Query { text, ..query.clone() });
            own.push(query);
        }
    }
    Ok((own, exchanged))
}

/// One query with all that is needed to score it.
#[derive(Debug, Clone)]
pub struct EvalItem {
    /// The query.
    pub query: Query,
    /// Original image.
    pub image: Arc<RgbImage>,
    /// Target mask in the original image: the union of the ref's objects.
    pub target: Arc<Mask>,
    /// Masks of the other non-crowd objects of the target's category, see [`Dataset::distractors`].
    pub distractors: Arc<Vec<Mask>>,
    /// Pixels that count neither for nor against a prediction, see [`Dataset::ignored`].
    pub ignored: Option<Arc<Mask>>,
    /// Geometry between the original image and the network input.
    pub letterbox: Letterbox,
}

/// A batch of queries as plain row-major buffers.
#[derive(Debug, Clone)]
pub struct EvalBatch {
    /// Tensor sizes and pixel normalisation.
    pub shape: SampleShape,
    /// The m distinct images, normalised, `[m, 3, S, S]`, in order of first use.
    pub images: Vec<f32>,
    /// Index into `images` for each query, `[n]`.
    pub image_of: Vec<usize>,
    /// Token ids of the expressions, `[n, K]`.
    pub words: Vec<i64>,
    /// The n queries.
    pub items: Vec<EvalItem>,
}

/// Starts prefetching batches of at most `batch_size` queries on all cores. They arrive in order.
///
/// - position: index of the data set in `datasets`
pub fn eval_batches(
    datasets: Arc<Vec<Dataset>>,
    position: usize,
    tokenizer: Arc<dyn Tokenizer>,
    queries: &[Query],
    batch_size: usize,
    shape: SampleShape,
) -> Prefetch<EvalBatch> {
    let jobs: Vec<Vec<Query>> = queries.chunks(batch_size.max(1)).map(<[Query]>::to_vec).collect();
    Prefetch::new(jobs, 2, move |queries| load(&datasets[position], &*tokenizer, queries, shape))
}

struct Letterboxed {
    image: Arc<RgbImage>,
    letterbox: Letterbox,
    /// Normalised, `[3, S, S]`.
    pixels: Vec<f32>,
}

/// Loads each image of the queries once, by image id.
fn images_of(
    dataset: &Dataset,
    queries: &[Query],
    shape: &SampleShape,
) -> Result<BTreeMap<i64, Letterboxed>> {
    let ids: BTreeSet<i64> = queries.iter().map(|query| dataset.refs[query.ref_index].image_id).collect();
    let loaded: Vec<Result<_>> = ids
        .into_par_iter()
        .map(|id| {
            let image = dataset.image(id)?;
            let letterbox = Letterbox::new(image.width, image.height, shape.input_size);
            let pixels = letterbox.normalised_image(&image, &shape.pixels);
            Ok((id, Letterboxed { image: Arc::new(image), letterbox, pixels }))
        })
        .collect();
    // Returns the error of the lowest image id, so that it does not depend on the threads.
    loaded.into_iter().collect()
}

/// Masks of a ref, see [`EvalItem`].
#[derive(Clone)]
struct Masks {
    target: Arc<Mask>,
    distractors: Arc<Vec<Mask>>,
    ignored: Option<Arc<Mask>>,
}

/// Decodes the masks of each ref once, by index of the ref.
fn masks_of(dataset: &Dataset, queries: &[Query]) -> Result<BTreeMap<usize, Masks>> {
    let indices: BTreeSet<usize> = queries.iter().map(|query| query.ref_index).collect();
    let decoded: Vec<Result<_>> = indices
        .into_par_iter()
        .map(|index| {
            let reference = &dataset.refs[index];
            let masks = Masks {
                target: Arc::new(dataset.target(reference)?),
                distractors: Arc::new(dataset.distractor_masks(reference)?),
                ignored: dataset.ignored(reference)?.map(Arc::new),
            };
            Ok((index, masks))
        })
        .collect();
    decoded.into_iter().collect()
}

fn load(
    dataset: &Dataset,
    tokenizer: &dyn Tokenizer,
    queries: &[Query],
    shape: SampleShape,
) -> Result<EvalBatch> {
    let images = images_of(dataset, queries, &shape)?;
    let masks = masks_of(dataset, queries)?;
    let mut batch = EvalBatch {
        shape,
        images: Vec::new(),
        image_of: Vec::with_capacity(queries.len()),
        words: Vec::with_capacity(queries.len() * shape.word_len),
        items: Vec::with_capacity(queries.len()),
    };
    let mut places: BTreeMap<i64, usize> = BTreeMap::new();
    for query in queries {
        let reference = &dataset.refs[query.ref_index];
        if query.text.trim().is_empty() {
            let what = format!("ref {}: expression {} is empty", reference.ref_id, query.sent_id);
            return Err(Error::Expression { what });
        }
        let Letterboxed { image, letterbox, pixels } = &images[&reference.image_id];
        let Masks { target, distractors, ignored } = masks[&query.ref_index].clone();
        let next = places.len();
        let place = *places.entry(reference.image_id).or_insert_with(|| {
            batch.images.extend(pixels);
            next
        });
        batch.image_of.push(place);
        batch.words.extend(tokenizer.encode_padded(&query.text, shape.word_len)?);
        batch.items.push(EvalItem {
            query: query.clone(),
            image: Arc::clone(image),
            target,
            distractors,
            ignored,
            letterbox: *letterbox,
        });
    }
    Ok(batch)
}
