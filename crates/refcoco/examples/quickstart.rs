//! Generates a small RefShapes data set in the REFER layout and prepares a training batch of it, as for RefCOCO.
//! `cargo run --release --package refcoco --example quickstart`
#![allow(clippy::print_stdout, missing_docs)]

use std::sync::Arc;

use refcoco::letterbox::Normalisation;
use refcoco::refshapes::{Settings, generate};
use refcoco::{
    BatchPlan, Buffers, ClipTokenizer, Dataset, RefAt, SampleOptions, SampleShape, training_batches, verify,
};

fn main() -> anyhow::Result<()> {
    let root = std::env::temp_dir().join(format!("refcoco-quickstart-{}", std::process::id()));
    std::fs::create_dir_all(&root)?;
    let settings = Settings {
        train_images: 20,
        val_images: 5,
        test_a_images: 2,
        test_b_images: 2,
        ..Default::default()
    };
    generate(&settings, &root, |_| {})?;

    let dataset = Dataset::open("refshapes", &root)?;
    let found = verify(dataset.descriptor.clone(), &root, |_, _| {})?;
    let problems = found.errors.len() + found.warnings.len();
    println!("refcoco: {} refs in splits {:?}, {problems} problems", dataset.refs.len(), dataset.splits());
    let first = &dataset.refs[0];
    let mask = dataset.target(first)?;
    println!("ref {}: {:?}, {} pixels", first.ref_id, first.expressions[0].sent, mask.area());

    let refs: Vec<RefAt> =
        dataset.split("train")?.into_iter().take(4).map(|index| RefAt { dataset: 0, index }).collect();
    let shape = SampleShape { input_size: 112, word_len: 17, pixels: Normalisation::CLIP };
    let plan = BatchPlan {
        batches: vec![refs],
        seed: 0,
        epoch: 0,
        shape,
        prefetch: 1,
        options: SampleOptions::default(),
        buffers: Buffers::default(),
    };
    for batch in training_batches(Arc::new(vec![dataset]), Arc::new(ClipTokenizer::new()?), plan) {
        let batch = batch?;
        println!("a batch of {}: images [{}, 3, 112, 112], ids {:?}", batch.n, batch.n, &batch.words[..6]);
    }
    std::fs::remove_dir_all(&root)?;
    Ok(())
}
