//! Prepares one batch.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use super::objects::write_object_maps;
use super::{BadSample, Batch, OnError, RefAt, SampleOptions, SampleShape};
use crate::annotation::Ref;
use crate::buffers::Buffers;
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::letterbox::Letterbox;
use crate::sampler::draw_expressions;
use crate::tokenizer::Tokenizer;

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

/// What all samples of a batch share.
struct Loading<'a> {
    datasets: &'a [Dataset],
    tokenizer: &'a dyn Tokenizer,
    /// Seed and epoch.
    drawn_by: (u64, u64),
    shape: SampleShape,
    options: &'a SampleOptions,
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
    drawn_by: (u64, u64),
    shape: SampleShape,
    options: &SampleOptions,
    buffers: &Buffers,
) -> Result<Batch> {
    let loading = Loading { datasets, tokenizer, drawn_by, shape, options };
    let image_of = loading.image_of(refs);
    let n_images = image_of.iter().max().map_or(0, |last| last + 1);
    let plane = shape.input_size * shape.input_size;
    let of_objects = options.objects.map_or(0, |shape| shape.len());
    let (mut images, mut masks) = (buffers.take(n_images * 3 * plane), buffers.take(refs.len() * plane));
    let mut objects = vec![0.0; refs.len() * of_objects];
    // Each sample is written to its own chunks; the first one about an image loads it. `plane` is 0 only for an invalid shape.
    let mut image_chunks = images.chunks_mut((3 * plane).max(1));
    let mut n_begun = 0;
    let places: Vec<Place<'_>> = masks
        .chunks_mut(plane.max(1))
        .zip(chunks_of(&mut objects, of_objects, refs.len()))
        .zip(&image_of)
        .map(|((mask, objects), &image)| {
            let is_first = image == n_begun;
            n_begun += usize::from(is_first);
            Place { image: if is_first { image_chunks.next() } else { None }, mask, objects }
        })
        .collect();
    let samples: Vec<(Result<()>, Result<Sample>)> =
        refs.par_iter().zip(places).map(|(&at, place)| loading.load(at, place)).collect();
    let mut batch = Batch {
        n: 0,
        shape,
        images,
        image_of: Vec::new(),
        masks,
        words: Vec::new(),
        positive_words: Vec::new(),
        negative_words: Vec::new(),
        valid: Vec::new(),
        objects,
        refs: Vec::new(),
        bad: Vec::new(),
    };
    let mut bad_images: BTreeMap<usize, String> = BTreeMap::new();
    for (place, ((image, sample), &at)) in samples.into_iter().zip(refs).enumerate() {
        if let Err(error) = &image {
            bad_images.insert(image_of[place], error.to_string());
        }
        let problem = match (bad_images.get(&image_of[place]), image.and(sample)) {
            (None, Ok(sample)) => {
                batch.push_sample(sample, place, of_objects);
                batch.image_of.push(image_of[place] as i64);
                continue;
            }
            (_, Err(error)) if options.on_error == OnError::Stop => return Err(error),
            (Some(problem), _) => problem.clone(),
            (None, Err(error)) => error.to_string(),
        };
        batch.bad.push(BadSample { name: loading.name(at), error: problem });
    }
    batch.drop_unused(plane, of_objects);
    Ok(batch)
}

/// The chunk of each of `n` samples; empty ones for chunks of length 0.
fn chunks_of(values: &mut [f32], len: usize, n: usize) -> Vec<&mut [f32]> {
    let mut chunks: Vec<&mut [f32]> = values.chunks_mut(len.max(1)).collect();
    chunks.resize_with(n, Default::default);
    chunks
}

/// Where a sample is written.
struct Place<'a> {
    /// `[3, S, S]`, for the first sample about an image.
    image: Option<&'a mut [f32]>,
    /// `[S, S]`.
    mask: &'a mut [f32],
    /// `[M, side, side]`, or empty.
    objects: &'a mut [f32],
}

impl Loading<'_> {
    /// Index of each ref's image, numbered in order of first use.
    fn image_of(&self, refs: &[RefAt]) -> Vec<usize> {
        if !self.options.share_images {
            return (0..refs.len()).collect();
        }
        let mut numbers = BTreeMap::new();
        refs.iter()
            .map(|at| {
                let n = numbers.len();
                *numbers.entry((at.dataset, self.reference(*at).image_id)).or_insert(n)
            })
            .collect()
    }

    fn reference(&self, at: RefAt) -> &Ref {
        &self.datasets[at.dataset].refs[at.index]
    }

    /// `data set name/ref_id`.
    fn name(&self, at: RefAt) -> String {
        format!("{}/{}", self.datasets[at.dataset].descriptor.name, self.reference(at).ref_id)
    }

    /// Results of the image, if it is to be loaded, and of everything else.
    fn load(&self, at: RefAt, place: Place<'_>) -> (Result<()>, Result<Sample>) {
        let image = place.image.map_or(Ok(()), |pixels| self.image(at, pixels));
        let sample =
            if image.is_ok() { self.sample(at, place.mask, place.objects) } else { self.expressions(at) };
        (image, sample)
    }

    fn image(&self, at: RefAt, pixels: &mut [f32]) -> Result<()> {
        let (dataset, image_id) = (&self.datasets[at.dataset], self.reference(at).image_id);
        let bytes = dataset.image_bytes(image_id)?;
        let image = dataset.decode_image_file(image_id, &bytes, DECODED.take())?;
        let letterbox = Letterbox::new(image.width, image.height, self.shape.input_size);
        letterbox.normalised_image_into(&image, &self.shape.pixels, pixels);
        DECODED.set(image.data);
        Ok(())
    }

    fn sample(&self, at: RefAt, mask: &mut [f32], objects: &mut [f32]) -> Result<Sample> {
        let sample = self.expressions(at)?;
        let (dataset, reference) = (&self.datasets[at.dataset], self.reference(at));
        let target = dataset.target(reference)?;
        let letterbox = Letterbox::new(target.width, target.height, self.shape.input_size);
        letterbox.unit_mask_into(&target, mask);
        if let Some(shape) = self.options.objects {
            let sizes = (self.shape.input_size, shape);
            write_object_maps(dataset, reference, &target, &letterbox, sizes, objects)?;
        }
        Ok(sample)
    }

    fn expressions(&self, at: RefAt) -> Result<Sample> {
        let (name, tokenizer, word_len) = (self.name(at), self.tokenizer, self.shape.word_len);
        let (dataset, reference) = (&self.datasets[at.dataset], self.reference(at));
        let expressions = draw_expressions(dataset, reference, self.options.negatives, self.drawn_by)
            .ok_or_else(|| Error::Expression { what: format!("ref {name} has no expression") })?;
        let encode = |text: &str| tokenizer.encode_padded(text, word_len);
        let valid = expressions.negative.is_some();
        let negative = expressions
            .negative
            .as_deref()
            .map_or_else(|| Ok(vec![tokenizer.padding(); word_len]), encode)?;
        Ok(Sample {
            words: [encode(&expressions.anchor)?, encode(&expressions.positive)?, negative],
            valid,
            name,
        })
    }
}

impl Batch {
    /// Appends a sample whose mask and object maps are in chunk `place`.
    fn push_sample(&mut self, sample: Sample, place: usize, of_objects: usize) {
        let plane = self.shape.input_size * self.shape.input_size;
        // Moves them forward, over those of bad samples.
        for (values, len) in [(&mut *self.masks, plane), (&mut *self.objects, of_objects)] {
            values.copy_within(place * len..(place + 1) * len, self.n * len);
        }
        self.n += 1;
        let [words, positive, negative] = sample.words;
        self.words.extend(words);
        self.positive_words.extend(positive);
        self.negative_words.extend(negative);
        self.valid.push(f32::from(u8::from(sample.valid)));
        self.refs.push(sample.name);
    }

    /// Cuts off what bad samples leave behind, and the images that no sample is about.
    fn drop_unused(&mut self, plane: usize, of_objects: usize) {
        self.masks.truncate(self.n * plane);
        self.objects.truncate(self.n * of_objects);
        let used: BTreeSet<i64> = self.image_of.iter().copied().collect();
        let numbers: BTreeMap<i64, i64> = used.into_iter().zip(0..).collect();
        let len = 3 * plane;
        for (&from, &to) in &numbers {
            self.images.copy_within(from as usize * len..(from as usize + 1) * len, to as usize * len);
        }
        self.images.truncate(numbers.len() * len);
        for image in &mut self.image_of {
            *image = numbers[image];
        }
    }
}
