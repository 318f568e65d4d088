//! Writes training batches of a REFER data set to flat files that any framework can map into memory: `images.f32` `[n, 3, S,
//! S]`, `masks.f32` `[n, 1, S, S]`, `words.i64` `[n, K]`, little-endian, row-major, one folder per batch.
//! `cargo run --release --package refcoco --example batches_for_another_framework -- DATASET DATA_ROOT OUT`
#![allow(clippy::print_stdout, missing_docs)]

use std::path::PathBuf;
use std::sync::Arc;

use refcoco::letterbox::Normalisation;
use refcoco::sampler::epoch_order;
use refcoco::{
    Batch, BatchPlan, Buffers, ClipTokenizer, Dataset, OnError, RefAt, SampleOptions, SampleShape,
    training_batches,
};

const BATCH_SIZE: usize = 8;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, root, out] = args.as_slice() else {
        anyhow::bail!("usage: batches_for_another_framework DATASET DATA_ROOT OUT");
    };
    let (seed, epoch) = (0, 0);
    let dataset = Dataset::open(name, root.as_ref())?;
    let train = dataset.split("train")?;
    let order: Vec<RefAt> = epoch_order(seed, epoch, train.len())
        .into_iter()
        .map(|place| RefAt { dataset: 0, index: train[place] })
        .collect();
    let shape = SampleShape {
        input_size: 448,
        word_len: dataset.descriptor.word_len,
        pixels: Normalisation {
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
            ..Normalisation::CLIP
        },
    };
    let plan = BatchPlan {
        batches: order.chunks(BATCH_SIZE).map(<[RefAt]>::to_vec).collect(),
        seed,
        epoch,
        shape,
        prefetch: 2,
        options: SampleOptions { on_error: OnError::Skip, ..SampleOptions::default() },
        buffers: Buffers::default(),
    };
    let batches = training_batches(Arc::new(vec![dataset]), Arc::new(ClipTokenizer::new()?), plan);
    for (number, batch) in batches.enumerate() {
        // Moves the fields out, so that no buffer is copied.
        let Batch { n, images, masks, words, bad, .. } = batch?;
        let folder = PathBuf::from(out).join(format!("batch-{number:05}"));
        std::fs::create_dir_all(&folder)?;
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
        std::fs::write(folder.join("images.f32"), bytes(&images.into_vec()))?;
        std::fs::write(folder.join("masks.f32"), bytes(&masks.into_vec()))?;
        std::fs::write(
            folder.join("words.i64"),
            words.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<_>>(),
        )?;
        println!("{}: {n} samples, {} could not be read", folder.display(), bad.len());
    }
    Ok(())
}
