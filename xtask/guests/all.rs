//! A program outside the workspace that uses all ten crates: an image and an expression of a generated data set go through frozen
//! encoders, adapters, neck and losses, and a mask is measured.

use std::sync::Arc;

use adapters::backbone::{
    IMAGE_ENCODER, ImageDesign, ImageEncoderConfig, PositionRule, TextDesign, TextEncoderConfig, Variant, guest,
    unobserved,
};
use adapters::{AdapterFusion, Gate, VisualAdapters, VisualAdaptersConfig};
use anyhow::{Context, Result, ensure};
use metrics::Activation;
use rca::{Neck, NeckConfig, NeckFusion, WordUnitConfig};
use refcoco::letterbox::Normalisation;
use refcoco::refshapes::{Settings, generate};
use refcoco::{BatchPlan, Buffers, ClipTokenizer, Dataset, RefAt, SampleOptions, SampleShape, training_batches};
use tch::{Device, Kind, Tensor};
use tlm_losses::{Cpcl, Segmentation, Tccl};
use torch_ext::Store;
use torch_ext::layers::Mode;
use weight_files::WeightFile;

const SIZE: usize = 112;
const WORDS: usize = 17;

fn batch(root: &std::path::Path) -> Result<(refcoco::Batch, Arc<Vec<Dataset>>)> {
    let few =
        Settings { train_images: 6, val_images: 1, test_a_images: 1, test_b_images: 1, ..Default::default() };
    generate(&few, root, |_| {})?;
    let datasets = Arc::new(vec![Dataset::open("refshapes", root)?]);
    let refs = datasets[0].split("train")?.into_iter().take(4).map(|index| RefAt { dataset: 0, index });
    let plan = BatchPlan {
        batches: vec![refs.collect()],
        seed: 0,
        epoch: 0,
        shape: SampleShape { input_size: SIZE, word_len: WORDS, pixels: Normalisation::CLIP },
        prefetch: 1,
        options: SampleOptions::default(),
        buffers: Buffers::default(),
    };
    let mut batches = training_batches(Arc::clone(&datasets), Arc::new(ClipTokenizer::new()?), plan);
    Ok((batches.next().context("no batch")??, datasets))
}

/// The losses of a small network on a batch, before any training.
fn loss(batch: &refcoco::Batch) -> Tensor {
    let n = batch.n as i64;
    let images = Tensor::from_slice(&batch.images).view([n, 3, SIZE as i64, SIZE as i64]);
    let masks = Tensor::from_slice(&batch.masks).view([n, 1, SIZE as i64, SIZE as i64]);
    let ids = Tensor::from_slice(&batch.words).view([n, WORDS as i64]);

    let store = Store::seeded(Device::Cpu, Kind::Float, 0);
    let place = store.root();
    let sizes = ImageEncoderConfig {
        width: 48,
        depth: 3,
        n_heads: 4,
        mlp_ratio: 4,
        patch_size: 14,
        n_registers: 4,
        position_grid: 8,
        position_rule: PositionRule::Talent,
        low_precision_tokens: false,
        variant: Variant::default(),
    };
    let mut adapters = VisualAdapters::new(VisualAdaptersConfig {
        blocks: vec![1],
        image_width: 48,
        n_special: 5,
        unit: WordUnitConfig::new(32, 32, 16, WORDS as i64),
        fusion: AdapterFusion::CostVolume,
        gate: Gate::Frozen,
    });
    let frozen = place.in_group(IMAGE_ENCODER);
    let image = ImageDesign::PUBLISHED
        .build(&(&frozen / "image"), &sizes, &mut |block, path| adapters.register(block, path));
    let sizes = TextEncoderConfig {
        width: 32,
        depth: 2,
        n_heads: 4,
        vocabulary: 49_408,
        context: 77,
        state_width: 32,
        variant: Variant::default(),
    };
    let text = TextDesign::PUBLISHED.build(&(&frozen / "text"), &sizes, &mut |_, _| {});
    let cfg = NeckConfig {
        image_width: 48,
        text_width: 32,
        state_width: 32,
        width: 32,
        fusion: NeckFusion::CostVolume,
    };
    let neck = Neck::new(&(&place / "neck"), cfg);

    let sentence = text.forward(&ids, &guest::nobody, &unobserved);
    let asked = adapters.guest(&sentence.words, None, Mode::Train, &|_, _| {});
    let features = image.forward(&images, &[0, 1], &asked, &unobserved);
    let taps = [&features.taps[0], &features.taps[1], &features.last].map(|tokens| image.map(tokens));
    let out = neck.forward(&taps, &sentence.state, &sentence.words, Mode::Train);
    let logits = out.features.mean_dim([1].as_slice(), true, None);
    let other = sentence.state.flip([0]);
    let valid = Tensor::ones([n], (Kind::Float, Device::Cpu));
    let seg = Segmentation::default().loss(&logits, &masks).total();
    seg + Cpcl::default().mean_loss(&out.fused, &out.sentence) * 0.1
        + Tccl::default().loss(&out.aggregated, &sentence.state, &other, &valid, None).loss * 0.1
}

fn main() -> Result<()> {
    let root = std::env::temp_dir().join(format!("talent-guest-{}", std::process::id()));
    std::fs::create_dir_all(&root)?;
    let (batch, datasets) = batch(&root)?;
    let total = loss(&batch);
    total.backward();

    let reference = &datasets[0].refs[0];
    let (target, others) = (datasets[0].target(reference)?, datasets[0].distractor_masks(reference)?);
    let others: Vec<&[u8]> = others.iter().map(|mask| &mask.data[..]).collect();
    let iou = Activation::of_mask(&target.data, &target.data, &others).overlap.iou();
    ensure!((iou - 1.0).abs() < 1e-5, "the IoU of a mask with itself is {iou}");
    let document = safe_pickle::parse(b"\x80\x02K\x07.")?;
    let missing = WeightFile::open(&root.join("nothing.safetensors")).err().context("there is a file")?;
    let alone = c10d::Rendezvous::from_environment()?.is_none();
    std::fs::remove_dir_all(&root)?;
    println!(
        "guest-all: loss {:.3} with libtorch {}, CUDA {}; a pickle of {:?}; alone {alone}; {missing}",
        f64::try_from(&total)?,
        torch_ext::version()?,
        tch::Cuda::is_available(),
        document.root().as_i64(),
    );
    Ok(())
}
