//! What the Rust crates compute for a data set, as one JSON document of SHA-256 values and reports. The tests of the Python package
//! compare theirs with it.
//! `cargo run --release --package python --example reference -- DATASET DATA_ROOT`
#![allow(clippy::print_stdout)]

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use command_kit::{measure_mask, measure_probabilities};
use metrics::SplitReport;
use refcoco::evaluation::queries;
use refcoco::letterbox::{Letterbox, Normalisation};
use refcoco::sampler::epoch_order;
use refcoco::training_mix::training_mix;
use refcoco::{
    Batch, BatchPlan, Buffers, ClipTokenizer, Dataset, SampleOptions, SampleShape, Tokenizer,
    training_batches,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const SIDE: usize = 96;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, root] = args.as_slice() else { bail!("usage: reference DATASET DATA_ROOT") };
    let dataset = Dataset::open(name, root.as_ref())?;
    let mut document = json!({"steps": steps(&dataset)?, "reports": reports(&dataset)?});
    document["batches"] = batches(dataset)?;
    println!("{document}");
    Ok(())
}

fn sha256(bytes: impl IntoIterator<Item = u8>) -> String {
    let bytes: Vec<u8> = bytes.into_iter().collect();
    format!("{:x}", Sha256::digest(bytes))
}

fn of_floats(values: &[f32]) -> String {
    sha256(values.iter().flat_map(|value| value.to_le_bytes()))
}

fn of_ids(values: &[i64]) -> String {
    sha256(values.iter().flat_map(|value| value.to_le_bytes()))
}

/// Single steps on every ref of the validation split.
fn steps(dataset: &Dataset) -> Result<Vec<Value>> {
    let tokenizer = ClipTokenizer::new()?;
    let mut steps = Vec::new();
    for index in dataset.split("val")? {
        let reference = &dataset.refs[index];
        let (image, mask) = (dataset.image(reference.image_id)?, dataset.target(reference)?);
        let letterbox = Letterbox::new(image.width, image.height, SIDE);
        let mut square = vec![0.0; SIDE * SIDE];
        letterbox.unit_mask_into(&mask, &mut square);
        let distractors = dataset.distractor_masks(reference)?;
        let text = &reference.expressions.first().context("a ref without expression")?.sent;
        steps.push(json!({
            "ref_id": reference.ref_id,
            "image": sha256(image.data.iter().copied()),
            "mask": sha256(mask.data.iter().copied()),
            "counts": mask.to_rle_string(),
            "distractors": sha256(distractors.into_iter().flat_map(|mask| mask.data)),
            "letterbox": of_floats(&letterbox.normalised_image(&image, &Normalisation::CLIP)),
            "letterbox_mask": of_floats(&square),
            "map_to_image": of_floats(&letterbox.map_to_image(&square)),
            "words": of_ids(&tokenizer.encode_padded(text, 17)?),
        }));
    }
    Ok(steps)
}

/// Reports on predictions that are made from the targets: shifted masks, and blurred probabilities.
fn reports(dataset: &Dataset) -> Result<Value> {
    let (mut shifted, mut blurred) = (Vec::new(), Vec::new());
    for query in queries(dataset, "val")? {
        let mut mask = dataset.target(&dataset.refs[query.ref_index])?;
        let letterbox = Letterbox::new(mask.width, mask.height, SIDE);
        let mut square = vec![0.0; SIDE * SIDE];
        letterbox.unit_mask_into(&mask, &mut square);
        let probabilities = letterbox.map_to_image(&square);
        blurred.push(measure_probabilities(dataset, &query, probabilities, 0.35)?.0);
        mask.data.rotate_right(3);
        shifted.push(measure_mask(dataset, &query, mask)?);
    }
    Ok(json!({"shifted": SplitReport::new(&shifted), "blurred": SplitReport::new(&blurred)}))
}

/// The batches of the second epoch, all of them and those of rank 1 of 2.
fn batches(dataset: Dataset) -> Result<Value> {
    let (seed, epoch, batch_size) = (7, 1, 4);
    let datasets = Arc::new(vec![dataset]);
    let refs = training_mix(&datasets, false)?.refs;
    let order = epoch_order(seed, epoch, refs.len());
    let whole = |n: usize| order.chunks_exact(n);
    let ranks = [
        whole(batch_size).map(<[usize]>::to_vec).collect::<Vec<_>>(),
        whole(2 * batch_size).map(|both| both[batch_size..].to_vec()).collect(),
    ];
    let mut found = Vec::new();
    for places in ranks {
        let plan = BatchPlan {
            batches: places.iter().map(|batch| batch.iter().map(|&place| refs[place]).collect()).collect(),
            seed,
            epoch,
            shape: SampleShape { input_size: SIDE, word_len: 17, pixels: Normalisation::CLIP },
            prefetch: 2,
            options: SampleOptions::default(),
            buffers: Buffers::default(),
        };
        let mut of_rank = Vec::new();
        for batch in training_batches(Arc::clone(&datasets), Arc::new(ClipTokenizer::new()?), plan) {
            let Batch { images, masks, words, positive_words, negative_words, valid, refs, .. } = batch?;
            of_rank.push(json!({
                "images": of_floats(&images),
                "masks": of_floats(&masks),
                "words": of_ids(&words),
                "positive_words": of_ids(&positive_words),
                "negative_words": of_ids(&negative_words),
                "valid": of_floats(&valid),
                "refs": refs,
            }));
        }
        found.push(of_rank);
    }
    Ok(json!(found))
}
