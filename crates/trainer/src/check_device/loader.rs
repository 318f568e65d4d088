//! How fast this machine makes training samples from photos.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use figures::Canvas;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use refcoco::letterbox::Normalisation;
use refcoco::{
    BatchPlan, Buffers, ClipTokenizer, RefAt, SampleOptions, SampleShape, Tokenizer, training_batches,
};
use serde_json::json;

use super::part::{Outcome, Setting};
use crate::experiment::open_datasets;

/// Width and height that most COCO images have. The files are about 160 kB, like COCO's.
const SIZE: [usize; 2] = [640, 480];

/// An image that costs a JPEG decoder as much as a photo: smooth areas, edges, and grain that enlarges the file.
fn picture(rng: &mut StdRng) -> Canvas {
    let [width, height] = SIZE;
    let waves: [f32; 6] = std::array::from_fn(|_| rng.random_range(0.005..0.06));
    let mut data = Vec::with_capacity(3 * width * height);
    for y in 0..height {
        for x in 0..width {
            let (x, y) = (x as f32, y as f32);
            let edge = if (x * waves[0]).sin() + (y * waves[1]).cos() > 0.4 { 60.0 } else { 0.0 };
            for channel in 0..3 {
                let wave = (x * waves[2 + channel] + y * waves[(channel + 1) % 6]).sin();
                let grain = rng.random_range(-1.2..1.2);
                data.push((110.0 + 50.0 * wave + edge + grain).clamp(0.0, 255.0) as u8);
            }
        }
    }
    Canvas::from_rgb(width, height, data)
}

/// Writes a user-defined data set: JPEG files with one polygon each. Returns the total size of the JPEG files in bytes.
fn write_photos(folder: &Path, n: usize) -> Result<u64> {
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let mut rng = StdRng::seed_from_u64(0);
    let (mut lines, mut bytes) = (String::new(), 0);
    for index in 0..n {
        let name = format!("{index}.jpg");
        let path = folder.join(&name);
        picture(&mut rng).save(&path)?;
        bytes += std::fs::metadata(&path)?.len();
        let polygon = json!([[100, 80, 420, 90, 500, 300, 260, 400, 120, 310]]);
        let line = json!({
            "image": name, "split": "train", "mask": polygon, "category": "thing",
            "expressions": ["the thing in the middle", "left thing"],
        });
        lines.push_str(&format!("{line}\n"));
    }
    std::fs::write(folder.join("refs.jsonl"), lines).with_context(|| folder.display().to_string())?;
    Ok(bytes)
}

pub(super) fn loader(setting: &Setting) -> Result<Outcome> {
    let (n, rounds) = if setting.small() { (16, 2) } else { (64, 20) };
    let root = setting.work.join("photos");
    let bytes = write_photos(&root.join("photos"), n)?;
    let datasets = Arc::new(open_datasets(&["photos".to_owned()], &root)?);
    let refs: Vec<RefAt> = (0..n).map(|index| RefAt { dataset: 0, index }).collect();
    let tokenizer: Arc<dyn Tokenizer> = Arc::new(ClipTokenizer::new()?);
    let shape = SampleShape { input_size: 448, word_len: 17, pixels: Normalisation::CLIP };
    let buffers = Buffers::default();
    let rate = |rounds: usize| -> Result<f64> {
        let batches = refs.chunks(32.min(n)).map(<[RefAt]>::to_vec);
        let batches: Vec<Vec<RefAt>> =
            std::iter::repeat_n(batches.collect::<Vec<_>>(), rounds).flatten().collect();
        let (options, buffers) = (SampleOptions::default(), buffers.clone());
        let plan = BatchPlan { batches, seed: 0, epoch: 0, shape, prefetch: 3, options, buffers };
        let started = Instant::now();
        let mut seen = 0;
        for batch in training_batches(Arc::clone(&datasets), Arc::clone(&tokenizer), plan) {
            seen += batch?.n;
        }
        Ok(seen as f64 / started.elapsed().as_secs_f64())
    };
    rate(1)?;
    let mut outcome = Outcome::default();
    outcome.figure("cores", std::thread::available_parallelism().map_or(1, usize::from));
    outcome.figure("kb_a_picture", bytes as f64 / n as f64 / 1e3);
    outcome.figure("samples_per_s", rate(rounds)?);
    if std::thread::available_parallelism().is_ok_and(|cores| cores.get() >= 8) {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(8).build().context("eight threads")?;
        // The loader decodes in the thread pool that it is called from.
        outcome.figure("samples_per_s_8_cores", pool.install(|| rate(rounds))?);
    }
    Ok(outcome)
}
