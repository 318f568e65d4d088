//! What batches are asked for, and which refs are in them.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use refcoco::sampler::{Negatives, epoch_order};
use refcoco::training_mix::training_mix;
use refcoco::{OnError, RefAt, SampleOptions, SampleShape};

use crate::transforms::{GivenNormalisation, MOST_PIXELS_A_SIDE, normalisation_of};

/// Largest number of threads that can be asked for.
const MOST_THREADS: usize = 1024;

/// Largest size of a batch's pixels in GiB: images and masks in float32.
const MOST_GIB: f64 = 32.0;

/// What `Dataset.batches` was called with.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) split: String,
    pub(crate) batch_size: usize,
    pub(crate) input_size: usize,
    pub(crate) word_len: usize,
    pub(crate) seed: u64,
    pub(crate) rank: usize,
    pub(crate) world_size: usize,
    pub(crate) epoch: u64,
    pub(crate) start: usize,
    pub(crate) shuffle: bool,
    pub(crate) drop_last: bool,
    pub(crate) worker: Option<(usize, usize)>,
    pub(crate) threads: Option<usize>,
    pub(crate) prefetch: usize,
    pub(crate) on_error: String,
    pub(crate) negatives: String,
    pub(crate) normalisation: Option<GivenNormalisation>,
}

/// A word of a setting that is an enum in Rust.
fn choice<T: serde::de::DeserializeOwned>(name: &str, word: &str, known: &str) -> PyResult<T> {
    serde_json::from_value(serde_json::Value::from(word))
        .map_err(|_| PyValueError::new_err(format!("{name} must be {known}, not \"{word}\"")))
}

impl Settings {
    pub(crate) fn check(&self) -> PyResult<()> {
        let at_least_one = [
            ("batch_size", self.batch_size),
            ("input_size", self.input_size),
            ("world_size", self.world_size),
            ("threads", self.threads.unwrap_or(1)),
        ];
        if let Some((name, _)) = at_least_one.iter().find(|(_, value)| *value == 0) {
            return Err(PyValueError::new_err(format!("{name} must be at least 1")));
        }
        if self.input_size > MOST_PIXELS_A_SIDE {
            let what = format!("input_size must be at most {MOST_PIXELS_A_SIDE}, not {}", self.input_size);
            return Err(PyValueError::new_err(what));
        }
        if self.threads.unwrap_or(1) > MOST_THREADS {
            return Err(PyValueError::new_err(format!("threads must be at most {MOST_THREADS}")));
        }
        let gib = 16.0 * self.batch_size as f64 * (self.input_size as f64).powi(2) / f64::from(1 << 30);
        if gib > MOST_GIB {
            let what =
                format!("a batch of batch_size {} takes {gib:.0} GiB, more than {MOST_GIB}", self.batch_size);
            return Err(PyValueError::new_err(what));
        }
        if !(2..=4096).contains(&self.word_len) {
            let what = format!("word_len must be 2 to 4096, not {}", self.word_len);
            return Err(PyValueError::new_err(what));
        }
        if self.rank >= self.world_size {
            let what = format!("rank {} is not below world_size {}", self.rank, self.world_size);
            return Err(PyValueError::new_err(what));
        }
        match self.worker {
            Some((worker, n)) if worker >= n => {
                Err(PyValueError::new_err(format!("worker {worker} is not below the number of workers, {n}")))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn shape(&self) -> PyResult<SampleShape> {
        let pixels = normalisation_of(self.normalisation)?;
        Ok(SampleShape { input_size: self.input_size, word_len: self.word_len, pixels })
    }

    pub(crate) fn options(&self) -> PyResult<SampleOptions> {
        let on_error: OnError = choice("on_error", &self.on_error, "\"stop\" or \"skip\"")?;
        let known = "\"any-object\" or \"same-category\"";
        let negatives: Negatives = choice("negatives", &self.negatives, known)?;
        Ok(SampleOptions { on_error, negatives, ..SampleOptions::default() })
    }

    /// The refs of this rank's batches. Every `world_size` batches of `batch_size` are one batch of all ranks, in the order of the
    /// trainer; the rank takes its part of each.
    pub(crate) fn plan(&self, dataset: &[refcoco::Dataset]) -> refcoco::Result<Vec<Vec<RefAt>>> {
        let refs = match self.split.as_str() {
            // As for training: without images that an evaluation split has, too.
            "train" => training_mix(dataset, false)?.refs,
            split => {
                let all = dataset[0].split(split)?.into_iter();
                let asked = all.filter(|&index| !dataset[0].refs[index].expressions.is_empty());
                asked.map(|index| RefAt { dataset: 0, index }).collect()
            }
        };
        let order = match self.shuffle {
            true => epoch_order(self.seed, self.epoch, refs.len()),
            false => (0..refs.len()).collect(),
        };
        let batches = order.chunks(self.batch_size.saturating_mul(self.world_size));
        let mine = batches.filter_map(|batch| {
            let is_whole = batch.len() == self.batch_size * self.world_size;
            let part = batch.chunks(self.batch_size).nth(self.rank)?;
            (is_whole || !self.drop_last).then(|| part.iter().map(|&place| refs[place]).collect())
        });
        Ok(mine.collect())
    }
}
