//! Plain buffers to tensors: the only place where data meets libtorch.

use refcoco::evaluation::EvalBatch;
use refcoco::{Batch, SampleShape};
use tch::{Device, Tensor};

/// A training batch on its device.
#[derive(Debug)]
pub(crate) struct TrainTensors {
    /// `[n, 3, S, S]`, normalised.
    pub(crate) images: Tensor,
    /// `[n, 1, S, S]`, 0..=1.
    pub(crate) masks: Tensor,
    /// int64 `[n, K]` each.
    pub(crate) words: Tensor,
    pub(crate) positives: Tensor,
    pub(crate) negatives: Tensor,
    /// `[n]`, 0 or 1.
    pub(crate) valid: Tensor,
}

fn images(data: &[f32], n: i64, channels: i64, shape: SampleShape, device: Device) -> Tensor {
    let side = shape.input_size as i64;
    Tensor::from_slice(data).view([n, channels, side, side]).to_device(device)
}

fn ids(data: &[i64], n: i64, shape: SampleShape, device: Device) -> Tensor {
    Tensor::from_slice(data).view([n, shape.word_len as i64]).to_device(device)
}

impl TrainTensors {
    pub(crate) fn new(batch: &Batch, device: Device) -> Self {
        let (n, shape) = (batch.n as i64, batch.shape);
        Self {
            images: images(&batch.images, n, 3, shape, device),
            masks: images(&batch.masks, n, 1, shape, device),
            words: ids(&batch.words, n, shape, device),
            positives: ids(&batch.positive_words, n, shape, device),
            negatives: ids(&batch.negative_words, n, shape, device),
            valid: Tensor::from_slice(&batch.valid).to_device(device),
        }
    }

    /// A run of samples.
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

/// Images `[n, 3, S, S]` and token ids `[n, K]` of an evaluation batch.
pub(crate) fn eval_tensors(batch: &EvalBatch, device: Device) -> (Tensor, Tensor) {
    let n = batch.items.len() as i64;
    (images(&batch.images, n, 3, batch.shape, device), ids(&batch.words, n, batch.shape, device))
}
