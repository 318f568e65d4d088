//! Copies batches from plain buffers into tensors: the only place where the data path meets libtorch.

use anyhow::Result;
use refcoco::evaluation::EvalBatch;
use refcoco::{Batch, ObjectMapShape, SampleOptions, SampleShape};
use tch::{Device, Kind, Tensor};
use tlm_losses::ObjectMaps;
use torch_ext::upload;

use crate::config::Config;

/// A training batch on its device.
#[derive(Debug)]
pub(crate) struct TrainTensors {
    /// Images `[m, 3, S, S]`, normalised.
    pub(crate) images: Tensor,
    /// Index of each sample's image, `[n]`; m is n and they count up unless samples share images.
    image_of: Vec<i64>,
    /// Masks `[n, 1, S, S]`, 0..=1.
    pub(crate) masks: Tensor,
    /// Token ids, int64 `[n, K]`, as are `positives` and `negatives`.
    pub(crate) words: Tensor,
    pub(crate) positives: Tensor,
    pub(crate) negatives: Tensor,
    /// `[n]`, 1 for a sample with a negative, otherwise 0.
    pub(crate) valid: Tensor,
    /// Maps of the objects of each target's category, `[n, M, 4 H, 4 W]`, if a loss needs them.
    objects: Option<Tensor>,
}

/// Number of object maps per sample: the target, and the largest distractors.
const MOST_OBJECTS: usize = 12;

/// How a config has samples prepared.
pub(crate) fn sample_options(cfg: &Config) -> SampleOptions {
    let wants_objects = !cfg.loss.in_need(|needs| needs.objects).is_empty();
    // The logits' grid.
    let objects = ObjectMapShape { side: 4 * cfg.model.grid() as usize, at_most: MOST_OBJECTS };
    SampleOptions {
        on_error: cfg.data.on_error,
        negatives: cfg.data.negatives,
        share_images: cfg.data.refs_per_image > 1,
        objects: wants_objects.then_some(objects),
    }
}

fn images(data: &[f32], n: i64, channels: i64, shape: SampleShape, device: Device) -> Result<Tensor> {
    let side = shape.input_size as i64;
    Ok(upload(data, &[n, channels, side, side], device)?)
}

fn ids(data: &[i64], n: i64, shape: SampleShape, device: Device) -> Result<Tensor> {
    Ok(upload(data, &[n, shape.word_len as i64], device)?)
}

impl TrainTensors {
    /// - kind: dtype of the network, to which images and masks are converted
    pub(crate) fn new(batch: &Batch, device: Device, kind: Kind) -> Result<Self> {
        let (n, shape) = (batch.n as i64, batch.shape);
        let m = batch.image_of.iter().max().map_or(0, |last| last + 1);
        let cells = batch.objects.len() / (batch.n * MOST_OBJECTS).max(1);
        let side = (cells as f64).sqrt() as i64;
        let objects = match batch.objects.as_slice() {
            [] => None,
            maps => Some(upload(maps, &[n, MOST_OBJECTS as i64, side, side], device)?),
        };
        Ok(Self {
            images: images(&batch.images, m, 3, shape, device)?.to_kind(kind),
            image_of: batch.image_of.clone(),
            masks: images(&batch.masks, n, 1, shape, device)?.to_kind(kind),
            words: ids(&batch.words, n, shape, device)?,
            positives: ids(&batch.positive_words, n, shape, device)?,
            negatives: ids(&batch.negative_words, n, shape, device)?,
            valid: upload(&batch.valid, &[n], device)?,
            objects,
        })
    }

    /// Index of each sample's image, int64 `[n]`.
    pub(crate) fn image_of(&self) -> Tensor {
        Tensor::from_slice(&self.image_of).to_device(self.words.device())
    }

    /// All tensors by name.
    pub(crate) fn named(&self) -> Vec<(&'static str, Tensor)> {
        let tensors = [
            ("images", self.images.shallow_clone()),
            ("image_of", self.image_of()),
            ("masks", self.masks.shallow_clone()),
            ("words", self.words.shallow_clone()),
            ("positives", self.positives.shallow_clone()),
            ("negatives", self.negatives.shallow_clone()),
            ("valid", self.valid.shallow_clone()),
        ];
        let objects = self.objects.as_ref().map(|maps| ("objects", maps.shallow_clone()));
        tensors.into_iter().chain(objects).collect()
    }

    /// Whether some samples are about the same image.
    pub(crate) fn shares_images(&self) -> bool {
        self.images.size()[0] < self.n()
    }

    /// Maps of the objects of each target's category, if a loss needs them.
    pub(crate) fn objects(&self) -> Option<ObjectMaps<'_>> {
        self.objects.as_ref().map(ObjectMaps)
    }

    /// Number of samples.
    pub(crate) fn n(&self) -> i64 {
        self.words.size()[0]
    }

    /// Copies the values of another batch of the same size into these tensors, in place. Neither may share images.
    pub(crate) fn overwrite(&self, other: &Self) {
        if let (Some(to), Some(from)) = (&self.objects, &other.objects) {
            to.shallow_clone().copy_(from);
        }
        for (to, from) in [
            (&self.images, &other.images),
            (&self.masks, &other.masks),
            (&self.words, &other.words),
            (&self.positives, &other.positives),
            (&self.negatives, &other.negatives),
            (&self.valid, &other.valid),
        ] {
            to.shallow_clone().copy_(from);
        }
    }

    /// Views of `n` samples, beginning at `start`.
    pub(crate) fn part(&self, start: i64, n: i64) -> Self {
        let cut = |xs: &Tensor| xs.narrow(0, start, n);
        let image_of = &self.image_of[start as usize..(start + n) as usize];
        let first = image_of.iter().copied().min().unwrap_or(0);
        let n_images = image_of.iter().copied().max().map_or(0, |last| last - first + 1);
        Self {
            images: self.images.narrow(0, first, n_images),
            image_of: image_of.iter().map(|image| image - first).collect(),
            masks: cut(&self.masks),
            words: cut(&self.words),
            positives: cut(&self.positives),
            negatives: cut(&self.negatives),
            valid: cut(&self.valid),
            objects: self.objects.as_ref().map(cut),
        }
    }
}

/// An evaluation batch on its device.
#[derive(Debug)]
pub(crate) struct EvalTensors {
    /// Images `[m, 3, S, S]`, normalised.
    pub(crate) images: Tensor,
    /// int64 `[n]`: index of each expression's image.
    pub(crate) image_of: Tensor,
    /// Token ids, int64 `[n, K]`.
    pub(crate) words: Tensor,
}

impl EvalTensors {
    pub(crate) fn new(batch: &EvalBatch, device: Device) -> Result<Self> {
        Self::from_parts(&batch.images, &batch.image_of, &batch.words, batch.shape, device)
    }

    /// - pixels: `[m, 3, S, S]`, normalised; image_of: `[n]`, index of each expression's image; words: token ids `[n, K]`
    pub(crate) fn from_parts(
        pixels: &[f32],
        image_of: &[usize],
        words: &[i64],
        shape: SampleShape,
        device: Device,
    ) -> Result<Self> {
        let n = image_of.len() as i64;
        let image_of: Vec<i64> = image_of.iter().map(|&place| place as i64).collect();
        let m = image_of.iter().max().map_or(0, |last| last + 1);
        Ok(Self {
            images: images(pixels, m, 3, shape, device)?,
            image_of: upload(&image_of, &[n], device)?,
            words: ids(words, n, shape, device)?,
        })
    }
}
