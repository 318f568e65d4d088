//! Training batches, prefetched on all cores and delivered in a fixed order.

mod objects;
mod samples;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::buffers::{Buffers, Pixels};
use crate::dataset::Dataset;
use crate::letterbox::Normalisation;
use crate::prefetch::Prefetch;
use crate::sampler::Negatives;
use crate::tokenizer::Tokenizer;

pub use objects::ObjectMapShape;
pub use samples::load_batch;

/// Tensor sizes of a batch, and the pixel normalisation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SampleShape {
    /// Side of the letterboxed square in pixels.
    pub input_size: usize,
    /// Token ids per expression, K.
    pub word_len: usize,
    /// Pixel normalisation that the image encoder expects.
    pub pixels: Normalisation,
}

/// One training batch of `n` samples as plain row-major buffers. Fields can be moved out.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Number of samples.
    pub n: usize,
    /// Tensor sizes and pixel normalisation.
    pub shape: SampleShape,
    /// Normalised images, `[m, 3, S, S]`; m is n unless samples [share images](SampleOptions::share_images).
    pub images: Pixels,
    /// Index of each sample's image, `[n]`.
    pub image_of: Vec<i64>,
    /// Target masks, `[n, 1, S, S]`: values in 0..=1, fractional at boundaries.
    pub masks: Pixels,
    /// Token ids of the expressions, `[n, K]`.
    pub words: Vec<i64>,
    /// Token ids of the positive expressions, `[n, K]`.
    pub positive_words: Vec<i64>,
    /// Token ids of the negative expressions, `[n, K]`; all padding where there is none.
    pub negative_words: Vec<i64>,
    /// 1 where the sample has a negative expression, otherwise 0, `[n]`.
    pub valid: Vec<f32>,
    /// Maps of the objects of each target's category, `[n, M, side, side]`: the share of each cell that an object covers, 0 to 1.
    /// The first is the target's, distractors follow, the rest is zero. Empty unless [asked for](SampleOptions::objects).
    pub objects: Vec<f32>,
    /// Names of the refs, as `data set name/ref_id`, `[n]`.
    pub refs: Vec<String>,
    /// Samples left out because they could not be read. Not counted in `n`.
    pub bad: Vec<BadSample>,
}

/// Identifies a ref among those of several data sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefAt {
    /// Index of the data set.
    pub dataset: usize,
    /// Index of the ref in the data set.
    pub index: usize,
}

/// What to do about a sample that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnError {
    /// The batch fails with the sample's error.
    #[default]
    Stop,
    /// The sample is left out of the batch and listed in [`Batch::bad`].
    Skip,
}

/// How samples are prepared, beside their tensor sizes. The default is the published way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SampleOptions {
    /// What to do about a sample that cannot be read.
    pub on_error: OnError,
    /// Which object the negative expressions are about.
    pub negatives: Negatives,
    /// Whether an image that several refs of a batch are about is loaded once.
    pub share_images: bool,
    /// Size of the [object maps](Batch::objects), if they are wanted.
    pub objects: Option<ObjectMapShape>,
}

/// A sample that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadSample {
    /// Name of the ref, as `data set name/ref_id`.
    pub name: String,
    /// Error message; names the file or annotation.
    pub error: String,
}

/// The batches of an epoch, and how to prepare them.
#[derive(Debug, Clone)]
pub struct BatchPlan {
    /// The refs of each batch, in order.
    pub batches: Vec<Vec<RefAt>>,
    /// Seed for drawing the expressions.
    pub seed: u64,
    /// Epoch, counted from 0.
    pub epoch: u64,
    /// Tensor sizes and pixel normalisation.
    pub shape: SampleShape,
    /// Maximum number of prefetched batches.
    pub prefetch: usize,
    /// How samples are prepared.
    pub options: SampleOptions,
    /// Pool that the pixel buffers are taken from.
    pub buffers: Buffers,
}

/// Starts prefetching the batches of a plan on all cores. They arrive in the plan's order.
pub fn training_batches(
    datasets: Arc<Vec<Dataset>>,
    tokenizer: Arc<dyn Tokenizer>,
    plan: BatchPlan,
) -> Prefetch<Batch> {
    let BatchPlan { batches, seed, epoch, shape, prefetch, options, buffers } = plan;
    Prefetch::new(batches, prefetch, move |refs| {
        load_batch(&datasets, &*tokenizer, refs, (seed, epoch), shape, &options, &buffers)
    })
}
