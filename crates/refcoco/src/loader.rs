//! Training batches, prepared ahead on all cores and delivered in a fixed order.

use std::sync::Arc;

use rayon::prelude::*;

use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::letterbox::Letterbox;
use crate::prefetch::Prefetch;
use crate::sampler::draw_expressions;
use crate::tokenizer::ClipTokenizer;

/// Sizes of a batch's tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampleShape {
    /// Side of the letterboxed square in pixels.
    pub input_size: usize,
    /// Ids per expression.
    pub word_len: usize,
}

/// One training batch of `n` samples as plain row-major buffers.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Samples.
    pub n: usize,
    /// Sizes.
    pub shape: SampleShape,
    /// Normalised images, `[n, 3, S, S]`.
    pub images: Vec<f32>,
    /// Target masks in 0..=1 with fractional borders, `[n, 1, S, S]`.
    pub masks: Vec<f32>,
    /// Token ids of the expressions, `[n, K]`.
    pub words: Vec<i64>,
    /// Token ids of the positives, `[n, K]`.
    pub positive_words: Vec<i64>,
    /// Token ids of the negatives, `[n, K]`, all 0 where there is none.
    pub negative_words: Vec<i64>,
    /// 1 where there is a negative, otherwise 0, `[n]`.
    pub valid: Vec<f32>,
    /// Which refs these are, as `data set name/ref_id`, `[n]`.
    pub refs: Vec<String>,
}

/// A ref of one of several data sets trained on together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefAt {
    /// Position of the data set.
    pub dataset: usize,
    /// Position of the ref in it.
    pub index: usize,
}

/// What a batch is made of.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The refs of each batch, in order.
    pub batches: Vec<Vec<RefAt>>,
    /// Seed of the expression choice.
    pub seed: u64,
    /// Epoch, from 0.
    pub epoch: u64,
    /// Sizes.
    pub shape: SampleShape,
    /// Batches prepared ahead at most.
    pub prefetch: usize,
}

/// Starts preparing the batches of a plan on all cores; they come in the plan's order.
pub fn training_batches(
    datasets: Arc<Vec<Dataset>>,
    tokenizer: Arc<ClipTokenizer>,
    plan: Plan,
) -> Prefetch<Batch> {
    let Plan { batches, seed, epoch, shape, prefetch } = plan;
    Prefetch::new(batches, prefetch, move |refs| load_batch(&datasets, &tokenizer, refs, seed, epoch, shape))
}

struct Sample {
    image: Vec<f32>,
    mask: Vec<f32>,
    words: [Vec<i64>; 3],
    valid: bool,
    name: String,
}

/// Prepares one batch on all cores.
///
/// # Errors
/// The first sample's error, in the order of `refs`: it names the file or annotation.
pub fn load_batch(
    datasets: &[Dataset],
    tokenizer: &ClipTokenizer,
    refs: &[RefAt],
    seed: u64,
    epoch: u64,
    shape: SampleShape,
) -> Result<Batch> {
    let samples: Vec<Result<Sample>> = refs
        .par_iter()
        .map(|&at| load_sample(&datasets[at.dataset], tokenizer, at.index, seed, epoch, shape))
        .collect();
    let mut batch = Batch {
        n: refs.len(),
        shape,
        images: Vec::with_capacity(refs.len() * 3 * shape.input_size * shape.input_size),
        masks: Vec::with_capacity(refs.len() * shape.input_size * shape.input_size),
        words: Vec::new(),
        positive_words: Vec::new(),
        negative_words: Vec::new(),
        valid: Vec::new(),
        refs: Vec::new(),
    };
    for sample in samples {
        let sample = sample?;
        batch.images.extend(sample.image);
        batch.masks.extend(sample.mask);
        let [words, positive, negative] = sample.words;
        batch.words.extend(words);
        batch.positive_words.extend(positive);
        batch.negative_words.extend(negative);
        batch.valid.push(f32::from(u8::from(sample.valid)));
        batch.refs.push(sample.name);
    }
    Ok(batch)
}

fn load_sample(
    dataset: &Dataset,
    tokenizer: &ClipTokenizer,
    index: usize,
    seed: u64,
    epoch: u64,
    shape: SampleShape,
) -> Result<Sample> {
    let reference = &dataset.refs[index];
    let name = format!("{}/{}", dataset.descriptor.name, reference.ref_id);
    let expressions = draw_expressions(dataset, reference, seed, epoch)
        .ok_or_else(|| Error::Expression { what: format!("ref {name} has no expression") })?;
    let image = dataset.image(reference.image_id)?;
    let letterbox = Letterbox::new(image.width, image.height, shape.input_size);
    let mask = letterbox.mask(&dataset.mask(reference.ann_id)?);
    let encode = |text: &str| tokenizer.encode_padded(text, shape.word_len);
    let valid = expressions.negative.is_some();
    let negative = expressions.negative.as_deref().map_or_else(|| Ok(vec![0; shape.word_len]), encode)?;
    Ok(Sample {
        image: letterbox.normalised_image(&image),
        mask: mask.into_iter().map(|value| (f64::from(value) / 255.0) as f32).collect(),
        words: [encode(&expressions.anchor)?, encode(&expressions.positive)?, negative],
        valid,
        name,
    })
}
