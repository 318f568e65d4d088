//! Benchmark of the preparation of training samples, stage by stage.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use cli_kit::outln;
use metrics::Overlap;
use refcoco::letterbox::{Letterbox, Normalisation};
use refcoco::sampler::{Negatives, draw_expressions};
use refcoco::{
    Buffers, ClipTokenizer, Dataset, RefAt, SampleOptions, SampleShape, Tokenizer, decode_image, load_batch,
};
use serde_json::json;

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Data set, such as refcoco
    #[arg(long, default_value = "refcoco")]
    dataset: String,
    /// Folder of the data sets
    #[arg(long, default_value = command_kit::DEFAULT_DATA_ROOT)]
    data_root: PathBuf,
    /// Threads of the whole pipeline; single stages are timed on one thread
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Side of the letterboxed square
    #[arg(long, default_value_t = 448)]
    input_size: usize,
    /// Refs per batch
    #[arg(long, default_value_t = 32)]
    batch_size: usize,
    /// Timed passes over the refs, after one pass to warm up
    #[arg(long, default_value_t = 5)]
    passes: usize,
    /// Largest number of refs to use
    #[arg(long, default_value_t = 500)]
    max_refs: usize,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

impl BenchArgs {
    fn check(&self) -> Result<()> {
        ensure!(
            self.passes > 0 && self.threads > 0 && self.batch_size > 0,
            "passes, threads and batch size must be positive"
        );
        ensure!(self.passes <= 1_000_000, "--passes must be at most 1,000,000");
        ensure!((1..=16384).contains(&self.input_size), "--input-size must be 1 to 16384");
        ensure!(self.threads <= 4096, "--threads must be at most 4096");
        Ok(())
    }
}

/// Measured times and rates.
struct Measured {
    /// Number of samples in a pass.
    n_samples: usize,
    /// Median time of a sample in each stage, in milliseconds.
    stage_ms: Vec<f64>,
    /// Whole samples per second in each pass.
    rates: Vec<f64>,
}

/// The stages of preparing a training sample and, last, of evaluating a predicted map.
const STAGES: [&str; 8] =
    ["read", "decode", "image", "mask", "mask warp", "tokens", "eval: map back", "eval: measure"];

pub(crate) fn bench(args: &BenchArgs) -> Result<()> {
    args.check()?;
    let datasets = vec![command_kit::open(&args.dataset, &args.data_root)?];
    let dataset = &datasets[0];
    let usable = (0..dataset.refs.len()).filter(|&index| !dataset.refs[index].expressions.is_empty());
    let refs: Vec<RefAt> = usable.take(args.max_refs).map(|index| RefAt { dataset: 0, index }).collect();
    ensure!(!refs.is_empty(), "{}: there are no refs", args.dataset);
    let tokenizer = ClipTokenizer::new()?;
    let shape = SampleShape {
        input_size: args.input_size,
        word_len: dataset.descriptor.word_len,
        pixels: Normalisation::CLIP,
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(args.threads).build()?;

    let (options, buffers) = (SampleOptions::default(), Buffers::default());
    let (mut stages, mut wholes) = (Vec::new(), Vec::new());
    for pass in 0..=args.passes as u64 {
        let times = stage_times(dataset, &tokenizer, &refs, shape, pass)?;
        let started = Instant::now();
        pool.install(|| -> Result<()> {
            for batch in refs.chunks(args.batch_size) {
                load_batch(&datasets, &tokenizer, batch, (0, pass), shape, &options, &buffers)?;
            }
            Ok(())
        })?;
        if pass > 0 {
            stages.push(times);
            wholes.push(refs.len() as f64 / started.elapsed().as_secs_f64());
        }
    }
    let per_sample = |time: Duration| time.as_secs_f64() * 1e3 / refs.len() as f64;
    let stage_ms = (0..STAGES.len())
        .map(|stage| median(stages.iter().map(|times| per_sample(times[stage])).collect()))
        .collect();
    let measured = Measured { n_samples: refs.len(), stage_ms, rates: wholes };
    if args.json {
        measured.print_json(args)
    } else {
        measured.print(args)
    }
    Ok(())
}

impl Measured {
    /// Lowest, median and highest rate.
    fn rates(&self) -> [f64; 3] {
        let ends = self
            .rates
            .iter()
            .fold((f64::INFINITY, 0.0_f64), |(low, high), &rate| (low.min(rate), high.max(rate)));
        [ends.0, median(self.rates.clone()), ends.1]
    }

    fn print_json(&self, args: &BenchArgs) {
        let stages: serde_json::Map<_, _> =
            STAGES.iter().zip(&self.stage_ms).map(|(name, ms)| ((*name).to_owned(), json!(ms))).collect();
        let [lowest, rate, highest] = self.rates();
        let report = json!({
            "dataset": args.dataset, "samples": self.n_samples, "passes": args.passes, "threads": args.threads,
            "input_size": args.input_size, "stages_ms": stages,
            "images_per_s": rate, "images_per_s_min": lowest, "images_per_s_max": highest,
            "batch_bytes": batch_bytes(args),
        });
        outln!("{report}");
    }

    fn print(&self, args: &BenchArgs) {
        outln!(
            "{} refs of {} to {2} x {2}, {3} passes; medians",
            self.n_samples,
            args.dataset,
            args.input_size,
            args.passes
        );
        outln!("{:16}{:>10}{:>14}", "stage", "ms", "images/s");
        for (name, ms) in STAGES.iter().zip(&self.stage_ms) {
            outln!("{name:16}{ms:>10.3}{:>14.1}", 1e3 / ms.max(1e-9));
        }
        let [lowest, rate, highest] = self.rates();
        outln!(
            "whole samples in batches of {}, {} threads: {rate:.1} images/s ({lowest:.1} to {highest:.1})",
            args.batch_size,
            args.threads
        );
        let mib = batch_bytes(args) as f64 / (1 << 20) as f64;
        outln!("a batch takes {mib:.1} MiB; three are prepared ahead in training");
    }
}

/// Bytes of a batch's images and masks in float32.
fn batch_bytes(args: &BenchArgs) -> usize {
    args.batch_size * 4 * 4 * args.input_size * args.input_size
}

/// Time of each stage over all refs, on this thread. `image` is letterboxing and normalisation. `tokens` is three expressions,
/// as a training sample needs.
fn stage_times(
    dataset: &Dataset,
    tokenizer: &ClipTokenizer,
    refs: &[RefAt],
    shape: SampleShape,
    epoch: u64,
) -> Result<[Duration; STAGES.len()]> {
    let mut times = [Duration::ZERO; STAGES.len()];
    let plane = shape.input_size * shape.input_size;
    let (mut image_out, mut mask_out) = (vec![0.0; 3 * plane], vec![0.0; plane]);
    for at in refs {
        let reference = &dataset.refs[at.index];
        let mut started = Instant::now();
        let mut lap = |stage: usize| {
            times[stage] += started.elapsed();
            started = Instant::now();
        };
        let bytes = dataset.image_bytes(reference.image_id)?;
        lap(0);
        let image = decode_image(&bytes).map_err(anyhow::Error::msg)?;
        lap(1);
        let letterbox = Letterbox::new(image.width, image.height, shape.input_size);
        letterbox.normalised_image_into(&image, &shape.pixels, &mut image_out);
        lap(2);
        let mask = dataset.target(reference)?;
        lap(3);
        letterbox.unit_mask_into(&mask, &mut mask_out);
        lap(4);
        if let Some(expressions) = draw_expressions(dataset, reference, Negatives::AnyObject, (0, epoch)) {
            tokenizer.encode_padded(&expressions.anchor, shape.word_len)?;
            tokenizer.encode_padded(&expressions.positive, shape.word_len)?;
            tokenizer.encode_padded(expressions.negative.as_deref().unwrap_or_default(), shape.word_len)?;
        }
        lap(5);
        // The target's mask serves as a prediction.
        let map = letterbox.map_to_image(&mask_out);
        lap(6);
        std::hint::black_box(Overlap::of_probabilities(&map, 0.35, &mask.data));
        lap(7);
    }
    Ok(times)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = |place: usize| values.get(place).copied().unwrap_or(0.0);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) {
        (at(middle.saturating_sub(1)) + at(middle)) / 2.0
    } else {
        at(middle)
    }
}
