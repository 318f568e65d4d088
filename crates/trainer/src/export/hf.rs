//! A folder to upload to Hugging Face: `model.safetensors` (a checkpoint of this program with all tensors, the frozen encoders
//! included), `config.json`, LoRA's matrices in peft's files, and a model card.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use cli_kit::errln;
use command_kit::{Differences, Interval};
use run_files::{ExpressionLine, Metrics, read_expressions};
use serde_json::json;
use talent::{Talent, Tuning};

use super::{peft_folders, staging_beside};
use crate::checkpoint::{Encoders, FORMAT, MODEL_FILE, Meta, file_sha256, write_checkpoint};
use crate::config::{Config, WeightsConfig};
use crate::encoder_input::sample_shape;
use crate::run_dir::read_environment;

/// Licences of data sets and encoders.
const SOURCES: &str = include_str!("../../../fetch/sources.toml");

/// Writes the folder, whole or not at all.
pub(super) fn write(to: &Path, checkpoint: &Path, model: &Talent, meta: &Meta) -> Result<()> {
    ensure!(!to.exists(), "--to {}: it exists already", to.display());
    let partial = staging_beside(to)?;
    let weights = partial.path().join(MODEL_FILE);
    let entries = model.store().entries().into_iter().map(|(name, entry)| (name, entry.tensor));
    write_checkpoint(&weights, entries.collect(), whole_meta(meta))?;
    let config = format!("{:#}\n", config_json(&meta.config)?);
    whole_file::write(&partial.path().join("config.json"), config.as_bytes())?;
    if meta.config.model.tuning == Tuning::Lora {
        peft_folders(model, meta, &partial.path().join("lora"))?;
    }
    let card = card(checkpoint, meta, &file_sha256(&weights)?);
    whole_file::write(&partial.path().join("README.md"), card.as_bytes())?;
    std::fs::rename(partial.keep(), to).with_context(|| to.display().to_string())?;
    errln!("{}: model.safetensors, config.json, README.md", to.display());
    Ok(())
}

/// The metadata of a checkpoint that refers to no other file.
fn whole_meta(meta: &Meta) -> Meta {
    let mut config = meta.config.clone();
    config.weights = WeightsConfig::of("", "");
    Meta { format: FORMAT, config, encoders: Encoders::default(), ..meta.clone() }
}

fn config_json(cfg: &Config) -> Result<serde_json::Value> {
    let shape = sample_shape(&cfg.model);
    Ok(json!({
        "model_type": "talent",
        "architectures": ["Talent"],
        "talent_version": env!("CARGO_PKG_VERSION"),
        "input_size": shape.input_size,
        "word_len": shape.word_len,
        "threshold": cfg.eval.threshold,
        "image_mean": shape.pixels.mean,
        "image_std": shape.pixels.std,
        "image_border": shape.pixels.border,
        "talent": cfg,
    }))
}

fn card(checkpoint: &Path, meta: &Meta, sha256: &str) -> String {
    let cfg = &meta.config;
    let datasets: Vec<&str> = cfg.data.datasets.iter().map(String::as_str).collect();
    let mut card = format!(
        "---\nlibrary_name: talent\npipeline_tag: image-segmentation\nlicense: other\nlicense_name: see-licences-below\nlicense_link: README.md\ntags:\n- referring-image-segmentation\n- talent\ndatasets:\n{}---\n\n\
         # Referring image segmentation with TALENT\n\n\
         An image and an expression (\"second zebra from the right\") give the mask of that one object. Method: \"Target-aware Efficient \
         Tuning for Referring Image Segmentation\", arXiv 2604.00609.\n\n",
        datasets.iter().map(|name| format!("- {name}\n")).collect::<String>()
    );
    let shape = sample_shape(&cfg.model);
    let _ = write!(
        card,
        "- trained on: {}, seed {}, {} steps, batch size {}\n- input: {side} x {side} pixels, {} token ids; a probability above {} is foreground\n\
         - SHA-256 of {MODEL_FILE}: `{sha256}`\n\n\
         ## Use\n\nWith talent {version}:\n\n```sh\ncargo xtask predict --checkpoint THIS_FOLDER --image photo.jpg --text \"left zebra\" --out out\n\
         cargo xtask eval --checkpoint THIS_FOLDER --data-root DATA --split testA\ncargo xtask train --init THIS_FOLDER --data-root DATA --dataset mine --run-dir runs/mine\n\
         cargo xtask export --checkpoint THIS_FOLDER --format torchscript --to model.pt   # for torch.jit.load\n```\n\n",
        datasets.join(", "),
        cfg.seed,
        meta.position.step,
        cfg.train.batch_size,
        shape.word_len,
        cfg.eval.threshold,
        side = shape.input_size,
        version = env!("CARGO_PKG_VERSION"),
    );
    card.push_str(&began_with(checkpoint));
    card.push_str(&metrics(checkpoint));
    card.push_str(&licences(cfg));
    // Not where it lies on somebody's disk.
    let shown = match checkpoint.file_name().filter(|_| checkpoint.is_absolute()) {
        Some(name) => Path::new(name),
        None => checkpoint,
    };
    let _ = write!(
        card,
        "## Made by\n\n```sh\ncargo xtask export --checkpoint {} --format hf --to THIS_FOLDER\n```\n\n\
         ## Citation\n\n\"Target-aware Efficient Tuning for Referring Image Segmentation\", CVPR 2026 Findings, arXiv 2604.00609.\n",
        shown.display()
    );
    card
}

/// The checkpoint whose weights the run began with (`train --init`), if the checkpoint lies in such a run.
fn began_with(checkpoint: &Path) -> String {
    let run = checkpoint.parent().and_then(Path::parent);
    let environment = run.and_then(read_environment).unwrap_or_default();
    let init = environment["init"].as_str().map(Path::new).and_then(Path::file_name);
    init.map_or_else(String::new, |name| {
        format!("Training began with the weights of `{}` (`train --init`).\n\n", name.to_string_lossy())
    })
}

/// Metrics of the run that a checkpoint belongs to, if it is that run's best model.
fn metrics(checkpoint: &Path) -> String {
    let is_best = checkpoint.file_name().is_some_and(|name| name == "best.safetensors");
    let run = checkpoint.parent().and_then(Path::parent).filter(|_| is_best);
    let found = run.and_then(|run| Some((Metrics::read(run).ok()?, read_expressions(run).ok()?)));
    let Some((metrics, expressions)) = found else {
        return "## Metrics\n\nThis checkpoint does not lie in a finished run as its best model, so that its metrics are not known here.\n\n".to_owned();
    };
    let mut text = String::from(
        "## Metrics\n\nIn percent, with 95 % intervals (bootstrap over refs), of the evaluation at the end of the run, on that many expressions. NTA mass: share of the probability mass on objects of the \
         category that lies on objects that were not referred to.\n\n\
         | split | mIoU | oIoU | NTA mass | expressions |\n|---|---|---|---|---|\n",
    );
    // Without the parts of a split, such as "val, expression exchanged".
    for (split, report) in metrics.splits.iter().filter(|(split, _)| !split.contains(", ")) {
        let of_split = || expressions.iter().filter(|line| line.split == *split);
        let miou = interval(of_split(), |line| Some(100.0 * line.evaluated.activation.overlap.iou()));
        let mass = interval(of_split(), |ExpressionLine { evaluated, .. }| {
            let has_rivals = !evaluated.activation.distractors.is_empty();
            Some(100.0 * evaluated.activation.nta_mass().filter(|_| has_rivals)?)
        });
        let all = &report.all.segmentation;
        let _ = writeln!(text, "| {split} | {miou} | {:.2} | {mass} | {} |", all.oiou, all.n_expressions);
    }
    text.push('\n');
    text
}

/// `mean [low, high]` over expressions.
fn interval<'a>(
    lines: impl Iterator<Item = &'a ExpressionLine>,
    value: impl Fn(&ExpressionLine) -> Option<f64>,
) -> String {
    let mut values = Differences::default();
    for line in lines {
        if let Some(value) = value(line) {
            values.add(0, line.evaluated.ref_id, value);
        }
    }
    values.interval().map_or_else(
        || "-".to_owned(),
        |Interval { mean, low, high, .. }| format!("{mean:.2} [{low:.2}, {high:.2}]"),
    )
}

/// A line for each data set and encoder whose licence is known.
fn licences(cfg: &Config) -> String {
    let sources: toml::Table = toml::from_str(SOURCES).unwrap_or_default();
    let items = sources.get("item").and_then(toml::Value::as_array).cloned().unwrap_or_default();
    let mut text = String::from("## Licences\n\n");
    let mut add = |what: &str, is_it: &dyn Fn(&toml::Value) -> bool| {
        let found = items.iter().find(|item| is_it(item));
        let field = |name: &str| found.and_then(|item| item.get(name)?.as_str().map(str::to_owned));
        let _ = match (field("licence"), field("licence_url")) {
            (Some(licence), Some(url)) => writeln!(text, "- {what}: {licence} ({url})"),
            _ => writeln!(text, "- {what}: see its publisher"),
        };
    };
    let names = |item: &toml::Value, key: &str| -> Vec<String> {
        let list = item.get(key).and_then(toml::Value::as_array).cloned().unwrap_or_default();
        list.iter().filter_map(|value| value.as_str().map(str::to_owned)).collect()
    };
    for dataset in cfg.data.datasets.iter().filter(|name| !name.starts_with("refshapes")) {
        add(dataset, &|item| names(item, "datasets").contains(dataset));
    }
    for weights in [&cfg.weights.image, &cfg.weights.text].into_iter().filter(|path| !path.is_empty()) {
        let holds = |item: &toml::Value| {
            let files = item.get("file").and_then(toml::Value::as_array).cloned().unwrap_or_default();
            files.iter().any(|file| {
                file.get("to")
                    .and_then(toml::Value::as_str)
                    .is_some_and(|to| to.starts_with(weights.as_str()))
            })
        };
        add(weights, &holds);
    }
    text.push_str("- RefShapes and this program: Apache-2.0 or MIT\n\n");
    text
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;
    use crate::checkpoint::{EncoderRoot, Position, load_model, verified_meta};
    use crate::config::Precision;
    use crate::precision::LossScaler;
    use crate::start_values::StartValues;
    use talent::weights::Strictness;

    #[test]
    fn a_folder_is_a_whole_checkpoint() {
        let mut config = Config::tiny();
        config.data.datasets = vec!["refcoco".into()];
        config.weights = WeightsConfig::of("weights/dinov2_vitb14_reg4_pretrain.pth", "");
        let start = StartValues::drawn(&config.model);
        let model = start.model(&config.model, Kind::Float);
        let position = Position::start(LossScaler::new(Precision::Fp32));
        let meta =
            Meta { format: FORMAT, sha256: String::new(), config, position, encoders: Encoders::default() };
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("new/folder");
        write(&to, Path::new("runs/x/checkpoints/best.safetensors"), &model, &meta).unwrap();
        assert_eq!(std::fs::read_dir(folder.path().join("new")).unwrap().count(), 1);
        let error = write(&to, Path::new("best.safetensors"), &model, &meta).unwrap_err().to_string();
        assert!(error.contains("exists already"), "{error}");

        let file = to.join(MODEL_FILE);
        let found = verified_meta(&file).unwrap().unwrap();
        assert_eq!(found.config.weights, WeightsConfig::of("", ""));
        let again = StartValues::drawn(&found.config.model).model(&found.config.model, Kind::Float);
        load_model(&again, &file, Some(&found), &Strictness::default(), &EncoderRoot::default()).unwrap();
        for (name, entry) in model.store().entries() {
            assert!(again.store().get(&name).unwrap().equal(&entry.tensor), "{name}");
        }
        let card = std::fs::read_to_string(to.join("README.md")).unwrap();
        for part in [
            &file_sha256(&file).unwrap(),
            "refcoco: Apache-2.0 (REFER",
            "dinov2_vitb14_reg4_pretrain.pth: Apache-2.0",
        ] {
            assert!(card.contains(part), "{part}: {card}");
        }
        let config = std::fs::read(to.join("config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        assert_eq!((&config["model_type"], &config["input_size"]), (&"talent".into(), &96.into()));
    }
}
