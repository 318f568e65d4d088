//! Copies batches from plain buffers into tensors: the only place where the data path meets libtorch.

use anyhow::Result;
use refcoco::evaluation::EvalBatch;
use refcoco::{Batch, SampleShape};
use tch::{Device, Kind, Tensor};
use torch_ext::upload;

/// A training batch on its device.
#[derive(Debug)]
pub(crate) struct TrainTensors {
    /// Images `[n, 3, S, S]`, normalised.
    pub(crate) images: Tensor,
    /// Masks `[n, 1, S, S]`, 0..=1.
    pub(crate) masks: Tensor,
    /// Token ids, int64 `[n, K]`, as are `positives` and `negatives`.
    pub(crate) words: Tensor,
    pub(crate) positives: Tensor,
    pub(crate) negatives: Tensor,
    /// `[n]`, 1 for a sample with a negative, otherwise 0.
    pub(crate) valid: Tensor,
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
        Ok(Self {
            images: images(&batch.images, n, 3, shape, device)?.to_kind(kind),
            masks: images(&batch.masks, n, 1, shape, device)?.to_kind(kind),
            words: ids(&batch.words, n, shape, device)?,
            positives: ids(&batch.positive_words, n, shape, device)?,
            negatives: ids(&batch.negative_words, n, shape, device)?,
            valid: upload(&batch.valid, &[n], device)?,
        })
    }

    /// Number of samples.
    pub(crate) fn n(&self) -> i64 {
        self.words.size()[0]
    }

    /// Copies the values of another batch of the same size into these tensors, in place.
    pub(crate) fn overwrite(&self, other: &Self) {
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
        Self {
            images: cut(&self.images),
            masks: cut(&self.masks),
            words: cut(&self.words),
            positives: cut(&self.positives),
            negatives: cut(&self.negatives),
            valid: cut(&self.valid),
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
        let n = batch.items.len() as i64;
        let image_of: Vec<i64> = batch.image_of.iter().map(|&place| place as i64).collect();
        let m = image_of.iter().max().map_or(0, |last| last + 1);
        Ok(Self {
            images: images(&batch.images, m, 3, batch.shape, device)?,
            image_of: upload(&image_of, &[n], device)?,
            words: ids(&batch.words, n, batch.shape, device)?,
        })
    }
}
