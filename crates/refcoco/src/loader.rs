//! Training batches, prefetched on all cores and delivered in a fixed order.

use std::cell::RefCell;
use std::sync::Arc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::annotation::Ref;
use crate::buffers::{Buffers, Pixels};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::letterbox::{Letterbox, Normalisation};
use crate::prefetch::Prefetch;
use crate::sampler::draw_expressions;
use crate::tokenizer::Tokenizer;

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
    /// Normalised images, `[n, 3, S, S]`.
    pub images: Pixels,
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
    /// What to do about a sample that cannot be read.
    pub on_error: OnError,
    /// Pool that the pixel buffers are taken from.
    pub buffers: Buffers,
}

/// Starts prefetching the batches of a plan on all cores. They arrive in the plan's order.
pub fn training_batches(
    datasets: Arc<Vec<Dataset>>,
    tokenizer: Arc<dyn Tokenizer>,
    plan: BatchPlan,
) -> Prefetch<Batch> {
    let BatchPlan { batches, seed, epoch, shape, prefetch, on_error, buffers } = plan;
    Prefetch::new(batches, prefetch, move |refs| {
        load_batch(&datasets, &*tokenizer, refs, (seed, epoch), shape, on_error, &buffers)
    })
}

thread_local! {
    /// Decoding buffer, reused for every image of this thread. A new allocation of that size would cause page faults every
    /// time.
    static DECODED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// One sample without its pixels.
struct Sample {
    words: [Vec<i64>; 3],
    valid: bool,
    name: String,
}

/// Prepares one batch on all cores.
///
/// - buffers: pool of pixel buffers; they return to it when the batch is dropped
///
/// # Errors
/// The error of the first bad sample, in the order of `refs`; it names the file or annotation. None with [`OnError::Skip`].
pub fn load_batch(
    datasets: &[Dataset],
    tokenizer: &dyn Tokenizer,
    refs: &[RefAt],
    (seed, epoch): (u64, u64),
    shape: SampleShape,
    on_error: OnError,
    buffers: &Buffers,
) -> Result<Batch> {
    let plane = shape.input_size * shape.input_size;
    let (mut images, mut masks) = (buffers.take(refs.len() * 3 * plane), buffers.take(refs.len() * plane));
    // Each sample is written to its own chunk. `plane` is 0 only for an invalid shape.
    let places = images.par_chunks_mut((3 * plane).max(1)).zip(masks.par_chunks_mut(plane.max(1)));
    let samples: Vec<Result<Sample>> = refs
        .par_iter()
        .zip(places)
        .map(|(&at, pixels)| {
            load_sample(&datasets[at.dataset], tokenizer, (at.index, seed, epoch), shape, pixels)
        })
        .collect();
    let mut batch = Batch {
        n: 0,
        shape,
        images,
        masks,
        words: Vec::new(),
        positive_words: Vec::new(),
        negative_words: Vec::new(),
        valid: Vec::new(),
        refs: Vec::new(),
        bad: Vec::new(),
    };
    for (place, (sample, at)) in samples.into_iter().zip(refs).enumerate() {
        match (sample, on_error) {
            (Ok(sample), _) => batch.push_sample(sample, place),
            (Err(error), OnError::Stop) => return Err(error),
            (Err(error), OnError::Skip) => {
                let dataset = &datasets[at.dataset];
                let name = sample_name(dataset, &dataset.refs[at.index]);
                batch.bad.push(BadSample { name, error: error.to_string() });
            }
        }
    }
    batch.images.truncate(batch.n * 3 * plane);
    batch.masks.truncate(batch.n * plane);
    Ok(batch)
}

impl Batch {
    /// Appends a sample whose pixels are in chunk `place`.
    fn push_sample(&mut self, sample: Sample, place: usize) {
        let plane = self.shape.input_size * self.shape.input_size;
        if place > self.n {
            // Moves the pixels forward, over those of bad samples.
            for (pixels, size) in [(&mut self.images, 3 * plane), (&mut self.masks, plane)] {
                pixels.copy_within(place * size..(place + 1) * size, self.n * size);
            }
        }
        self.n += 1;
        let [words, positive, negative] = sample.words;
        self.words.extend(words);
        self.positive_words.extend(positive);
        self.negative_words.extend(negative);
        self.valid.push(f32::from(u8::from(sample.valid)));
        self.refs.push(sample.name);
    }
}

/// `data set name/ref_id`.
fn sample_name(dataset: &Dataset, reference: &Ref) -> String {
    format!("{}/{}", dataset.descriptor.name, reference.ref_id)
}

fn load_sample(
    dataset: &Dataset,
    tokenizer: &dyn Tokenizer,
    (index, seed, epoch): (usize, u64, u64),
    shape: SampleShape,
    (image_out, mask_out): (&mut [f32], &mut [f32]),
) -> Result<Sample> {
    let reference = &dataset.refs[index];
    let name = sample_name(dataset, reference);
    let expressions = draw_expressions(dataset, reference, seed, epoch)
        .ok_or_else(|| Error::Expression { what: format!("ref {name} has no expression") })?;
    let bytes = dataset.image_bytes(reference.image_id)?;
    let image = dataset.decode_image_file(reference.image_id, &bytes, DECODED.take())?;
    let letterbox = Letterbox::new(image.width, image.height, shape.input_size);
    letterbox.normalised_image_into(&image, &shape.pixels, image_out);
    DECODED.set(image.data);
    letterbox.unit_mask_into(&dataset.target(reference)?, mask_out);
    let encode = |text: &str| tokenizer.encode_padded(text, shape.word_len);
    let valid = expressions.negative.is_some();
    let negative = expressions
        .negative
        .as_deref()
        .map_or_else(|| Ok(vec![tokenizer.padding(); shape.word_len]), encode)?;
    Ok(Sample {
        words: [encode(&expressions.anchor)?, encode(&expressions.positive)?, negative],
        valid,
        name,
    })
}
