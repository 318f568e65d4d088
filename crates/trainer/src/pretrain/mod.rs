//! Pretrains the frozen encoders of the testbed on RefShapes, within minutes. They learn only what RefShapes needs. The image
//! encoder learns from category-level supervision, so that objects of one category look alike, as in real pretrained features.
//! The text encoder learns from expressions.

mod facts;
mod image;
mod text;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use cli_kit::{errln, outln};
use command_kit::Progress;
use refcoco::Dataset;
use serde::Deserialize;
use serde_json::{Value, json};
use tch::Tensor;
use torch_ext::{Adam, AdamConfig, AdamGroup, Role, Store};

use crate::checkpoint::write_tensors;
use crate::config::{Config, PretrainConfig, Schedule, TrainConfig};
use crate::experiment::Machine;
use crate::optim::lr_factor;

/// File beside the encoders with their settings and held-out accuracies.
const REPORT: &str = "pretrain.json";

/// Trains the encoders that a config names, unless files made with the same settings exist.
///
/// # Errors
/// When the data cannot be generated or read, or a file cannot be written.
pub(crate) fn pretrain(cfg: &Config, machine: &Machine, data_root: &Path, force: bool) -> Result<()> {
    let (image_file, text_file) = (PathBuf::from(&cfg.weights.image), PathBuf::from(&cfg.weights.text));
    for (key, file) in [("weights.image", &image_file), ("weights.text", &text_file)] {
        ensure!(
            file.extension().is_some_and(|extension| extension == "safetensors"),
            "{key} = \"{}\": it names the file to write and must end in .safetensors",
            file.display()
        );
    }
    let settings = settings(cfg)?;
    let report_file = image_file.with_file_name(REPORT);
    if !force && is_up_to_date(&report_file, &settings) && image_file.is_file() && text_file.is_file() {
        errln!("{}: these encoders are there already", report_file.display());
        return Ok(());
    }
    let device = machine.set_up()?;
    let dataset = command_kit::open(&cfg.pretrain.dataset, data_root)?;
    let colours = Colours::read(&dataset, data_root)?;
    for file in [&image_file, &text_file] {
        let folder = file.parent().unwrap_or(Path::new(""));
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }

    let started = Instant::now();
    tch::manual_seed(cfg.pretrain.seed as i64);
    let image = image::train(cfg, device, &dataset, &colours)?;
    write_tensors(
        &image_file,
        encoder_tensors(&image.store, cfg.model.image.spec().prefix),
        ("format", "pt"),
    )?;
    let text = text::train(cfg, device, &dataset)?;
    write_tensors(&text_file, encoder_tensors(&text.store, cfg.model.text.spec().prefix), ("format", "pt"))?;
    let report = json!({
        "settings": settings,
        "held_out": {"image": image.held_out, "text": text.held_out},
        "seconds": started.elapsed().as_secs_f64(),
    });
    whole_file::write(&report_file, format!("{report:#}\n").as_bytes())?;
    outln!("image encoder, held-out scenes: {}", image.held_out);
    outln!("text encoder, held-out expressions: {}", text.held_out);
    outln!("{}, {} in {:.0} s", image_file.display(), text_file.display(), started.elapsed().as_secs_f64());
    Ok(())
}

/// Refuses encoders that `pretrain` made with other settings, such as those of an earlier version.
///
/// # Errors
/// Names the report of the encoders.
pub(crate) fn ensure_current(cfg: &Config) -> Result<()> {
    let report = Path::new(&cfg.weights.image).with_file_name(REPORT);
    let is_current = !report.is_file() || is_up_to_date(&report, &settings(cfg)?);
    ensure!(
        is_current,
        "{}: these encoders were made with other settings; make them again with `pretrain`, or move them away",
        report.display()
    );
    Ok(())
}

/// All settings that the encoders' weights depend on.
fn settings(cfg: &Config) -> Result<Value> {
    let mut image = serde_json::to_value(&cfg.model.image)?;
    let mut text = serde_json::to_value(&cfg.model.text)?;
    for (table, unused) in [
        (
            &mut image,
            [
                "adapter_blocks",
                "adapter_width",
                "fusion_width",
                "fusion",
                "cost_heads",
                "fusion_std",
                "gate",
                "taps",
            ]
            .as_slice(),
        ),
        (&mut text, ["adapter_blocks", "adapter_width", "adapters"].as_slice()),
    ] {
        if let Value::Object(table) = table {
            table.retain(|key, _| !unused.contains(&key.as_str()));
        }
    }
    Ok(json!({
        "pretrain": cfg.pretrain, "image": image, "text": text,
        "input_size": cfg.model.input_size, "word_len": cfg.model.word_len,
        "taught": {"image": image::TAUGHT, "text": facts::Facts::NAMES},
    }))
}

fn is_up_to_date(report: &Path, settings: &Value) -> bool {
    let text = std::fs::read_to_string(report).unwrap_or_default();
    serde_json::from_str::<Value>(&text).is_ok_and(|report| report["settings"] == *settings)
}

/// A trained encoder with the heads that it was trained with.
struct Trained {
    store: Store,
    /// Accuracies on the validation split, in percent.
    held_out: Value,
}

/// An encoder's parameters, named as in its published files.
fn encoder_tensors(store: &Store, prefix: &str) -> Vec<(String, Tensor)> {
    let parameters = store.entries().into_iter().filter(|(_, entry)| entry.role == Role::Parameter);
    parameters
        .filter_map(|(name, entry)| {
            Some((name.strip_prefix(prefix)?.strip_prefix('.')?.to_owned(), entry.tensor))
        })
        .collect()
}

/// Minimises `loss`, called with each step's number, with Adam and a cosine schedule.
fn fit(
    label: &str,
    store: &Store,
    cfg: &PretrainConfig,
    n_steps: u64,
    mut loss: impl FnMut(u64) -> Tensor,
) -> Result<()> {
    let params: Vec<(String, Tensor)> = store
        .entries()
        .into_iter()
        .filter(|(_, entry)| entry.role == Role::Parameter)
        .map(|(name, entry)| (name, entry.tensor))
        .collect();
    let adam = AdamConfig { betas: [0.9, 0.98], eps: 1e-8, weight_decay: 0.0 };
    let mut adam = Adam::new([AdamGroup { params, lr: cfg.lr }], adam);
    let schedule =
        TrainConfig { schedule: Schedule::Cosine, warmup_steps: n_steps / 20, ..Config::tiny().train };
    let mut progress = Progress::new(label, n_steps, 0);
    let mut message = String::new();
    for step in 0..n_steps {
        let value = loss(step);
        adam.zero_grad()?;
        value.backward();
        let _ = adam.clip(1.0);
        adam.step(lr_factor(&schedule, step, 0, n_steps))?;
        if step % 20 == 0 || step + 1 == n_steps {
            let value = f64::try_from(&value)?;
            ensure!(value.is_finite(), "{label}: the loss is {value} at step {step}");
            message = format!("loss {value:.3}");
        }
        progress.advance(1, &message);
    }
    Ok(())
}

/// Number of classes of a head that predicts category ids: the largest id plus one.
fn n_categories(dataset: &Dataset) -> i64 {
    dataset.instances.categories.keys().copied().max().unwrap_or(0) + 1
}

/// Accuracy of predicted classes in percent, to a tenth; true classes below `least` are not counted.
fn accuracy(found: &Tensor, truth: &Tensor, least: i64) -> Result<f64> {
    let values = |classes: &Tensor| Vec::<i64>::try_from(classes.flatten(0, -1));
    let pairs: Vec<(i64, i64)> =
        values(found)?.into_iter().zip(values(truth)?).filter(|(_, truth)| *truth >= least).collect();
    let right = pairs.iter().filter(|(found, truth)| found == truth).count();
    Ok((1000.0 * right as f64 / pairs.len().max(1) as f64).round() / 10.0)
}

/// Colour of each object, numbered from 0, from RefShapes' annotations, by annotation id.
struct Colours(std::collections::BTreeMap<i64, i64>);

impl Colours {
    fn read(dataset: &Dataset, data_root: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct File {
            annotations: Vec<Annotation>,
        }
        #[derive(Deserialize)]
        struct Annotation {
            id: i64,
            attributes: Attributes,
        }
        #[derive(Deserialize)]
        struct Attributes {
            colour: String,
        }
        let path = data_root.join(&dataset.descriptor.folder).join("instances.json");
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let file: File = serde_json::from_str(&text).with_context(|| {
            format!("{}: pretraining needs the attributes that generated data sets have", path.display())
        })?;
        let colour = |Annotation { id, attributes: Attributes { colour } }| {
            let found = facts::COLOURS.iter().position(|words| **words == [colour.as_str()]);
            let index =
                found.with_context(|| format!("{}: no colour is called `{colour}`", path.display()))?;
            Ok((id, index as i64))
        };
        Ok(Self(file.annotations.into_iter().map(colour).collect::<Result<_>>()?))
    }

    fn of(&self, ann_id: i64) -> Result<i64> {
        self.0.get(&ann_id).copied().with_context(|| format!("annotation {ann_id} has no attributes"))
    }
}
