//! `bench eval`: inference for expressions about one image, as evaluation does it.

use anyhow::{Result, ensure};
use clap::Args;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use refcoco::{Mask, RgbImage};
use serde_json::json;
use talent::forward_flops;
use tracing::trace_span;

use super::memory::peak_mib;
use super::{BenchReport, Pace, Timing};
use crate::config::ConfigArgs;
use crate::encoder_input::about_one_image;
use crate::evaluate::{probabilities, values};
use crate::experiment::Experiment;
use crate::memory_limit::ensure_sentences_fit;

#[derive(Debug, Args)]
pub(crate) struct EvalBenchArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Number of expressions about the image
    #[arg(long, default_value_t = 3)]
    batch_size: usize,
    /// Size of the image in pixels, as WIDTHxHEIGHT
    #[arg(long, default_value = "640x480", value_parser = image_size)]
    image_size: [usize; 2],
    #[command(flatten)]
    timing: Timing,
}

fn image_size(text: &str) -> Result<[usize; 2], String> {
    let fail = || format!("`{text}`: expected something like 640x480");
    let (width, height) = text.split_once('x').ok_or_else(fail)?;
    let side = |text: &str| text.parse().ok().filter(|side| (1..=16384).contains(side)).ok_or_else(fail);
    Ok([side(width)?, side(height)?])
}

const EXPRESSIONS: [&str; 4] = [
    "second zebra from the right",
    "the man in the red jacket",
    "left cup",
    "a dog lying on the grass beside the bench",
];

/// Times everything from the decoded image and the text to masks at the image's resolution.
pub(crate) fn bench_eval(args: &EvalBenchArgs) -> Result<()> {
    ensure!(args.batch_size > 0, "--batch-size must be positive");
    let cfg = args.config.load_for_bench()?;
    let device = args.timing.machine.set_up()?;
    ensure_sentences_fit(&cfg.model, args.batch_size)?;
    let experiment = Experiment::with_datasets(cfg, device, Vec::new())?;
    let (cfg, shape) = (&experiment.cfg, experiment.shape());
    let [width, height] = args.image_size;
    let mut rng = StdRng::seed_from_u64(0);
    let image = RgbImage { width, height, data: (0..width * height * 3).map(|_| rng.random()).collect() };
    let expressions: Vec<&str> = EXPRESSIONS.iter().copied().cycle().take(args.batch_size).collect();
    let measured = args.timing.repeats.measure(Pace::Synchronised, device, || {
        let span = trace_span!("data").entered();
        let (letterbox, batch) =
            about_one_image(&image, &expressions, &*experiment.tokenizer, shape, device)?;
        drop(span);
        let maps = values(probabilities(&experiment, &batch, cfg.train.precision)?)?;
        let _span = trace_span!("masks").entered();
        for map in maps.chunks_exact(shape.input_size * shape.input_size) {
            let map = letterbox.map_to_image(map);
            std::hint::black_box(Mask::above(width, height, &map, cfg.eval.threshold));
        }
        Ok(())
    })?;
    let report = BenchReport {
        head: json!({"bench": "eval", "config": cfg.name, "batch_size": args.batch_size, "image_size": args.image_size}),
        measured: &measured,
        samples: args.batch_size,
        flops: forward_flops(&cfg.model).total() * args.batch_size as u64,
        device,
        precision: cfg.train.precision,
        peak_mib: peak_mib(device)?,
    };
    report.print(args.timing.json)
}
