//! Compares masks predicted on the device with the CPU's.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use refcoco::evaluation::queries;
use refcoco::{Mask, read_image};
use tch::Device;

use super::part::{Outcome, Setting};
use super::runs::{data_root, talent, trained_run};
use crate::checkpoint::{self, EncoderRoot};
use crate::config::Precision;
use crate::evaluate::evaluate_queries;
use crate::experiment::{Experiment, open_datasets};
use talent::weights::Strictness;

/// Allowed share of pixels that are on the other side of the threshold than on the CPU.
const OTHER_PIXELS: f64 = 1e-3;

fn model_file(setting: &Setting) -> Result<PathBuf> {
    let file = trained_run(setting).join("checkpoints/best.safetensors");
    ensure!(file.is_file(), "the part train-kill-resume has left no model");
    Ok(file)
}

fn masks(setting: &Setting, file: &Path, device: Device) -> Result<Vec<Mask>> {
    let meta = checkpoint::verified_meta(file)?.context("the checkpoint has no config")?;
    let cfg = meta.config.clone();
    let datasets = open_datasets(&cfg.data.datasets, &data_root(setting)?)?;
    let experiment = Experiment::with_datasets(cfg, device, datasets)?;
    checkpoint::load_model(
        &experiment.model,
        file,
        Some(&meta),
        &Strictness::default(),
        &EncoderRoot::default(),
    )?;
    let queries = queries(&experiment.datasets[0], "val")?;
    let threshold = experiment.cfg.eval.threshold;
    let mut masks: Vec<(usize, Mask)> = Vec::new();
    evaluate_queries(&experiment, 0, &queries, Precision::Fp32, "eval val", |place, prediction| {
        masks.push((place, prediction.mask(threshold)));
    })?;
    masks.sort_by_key(|(place, _)| *place);
    Ok(masks.into_iter().map(|(_, mask)| mask).collect())
}

/// Number of values that differ, and number of all values.
fn differing(found: &[u8], expected: &[u8]) -> (usize, usize) {
    let others = found.iter().zip(expected).filter(|(a, b)| a != b).count();
    (others + found.len().abs_diff(expected.len()), expected.len())
}

pub(super) fn evaluation(setting: &Setting) -> Result<Outcome> {
    let file = model_file(setting)?;
    let found = masks(setting, &file, setting.device)?;
    let expected = masks(setting, &file, Device::Cpu)?;
    let mut outcome = Outcome::default();
    outcome.figure("expressions", expected.len());
    outcome.require(found.len() == expected.len() && !found.is_empty(), || "other expressions".into());
    let (mut others, mut all, mut foreground) = (0, 0, 0);
    for (found, expected) in found.iter().zip(&expected) {
        let (differ, pixels) = differing(&found.data, &expected.data);
        others += differ;
        all += pixels;
        foreground += expected.area();
    }
    outcome.figure("foreground_pixels", foreground);
    outcome.figure("differing_pixels", others);
    outcome.at_most("differing_share", others as f64 / all.max(1) as f64, OTHER_PIXELS);
    Ok(outcome)
}

pub(super) fn predict(setting: &Setting) -> Result<Outcome> {
    let file = model_file(setting)?;
    let images = data_root(setting)?.join("refshapes/images/train2014");
    let image = std::fs::read_dir(&images)
        .with_context(|| images.display().to_string())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .min()
        .context("there is no picture")?;
    let mask = |device: &str| -> Result<Vec<u8>> {
        let out = setting.work.join(format!("predicted-{}", device.replace(':', "-")));
        let mut command = talent(&["predict", "--text", "the red circle on the left", "--device", device])?;
        command.arg("--checkpoint").arg(&file).arg("--image").arg(&image).arg("--out").arg(&out);
        let output = command.output().context("predict")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "predict on {device}: {}", said.trim());
        Ok(read_image(&out.join("mask.png"))?.data)
    };
    let (others, all) = differing(&mask(&setting.device_name)?, &mask("cpu")?);
    let mut outcome = Outcome::default();
    outcome.figure("differing_pixels", others / 3);
    outcome.at_most("differing_share", others as f64 / all.max(1) as f64, OTHER_PIXELS);
    Ok(outcome)
}
