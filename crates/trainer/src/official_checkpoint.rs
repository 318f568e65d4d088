//! Pretrained encoders, and checkpoints that other programs wrote.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use cli_kit::errln;
use talent::weights::{Encoder, LoadReport, PeftFolder, Strictness, load_encoder, read_tensor};
use talent::{Talent, Tuning};
use torch_ext::Adam;
use weight_files::{PEFT_CONFIG_FILE, WeightFile};

use crate::checkpoint::{EncoderFile, EncoderRoot, Encoders, load_model, verified_meta};
use crate::config::{Config, WeightsConfig};

/// Loads the encoders that a config names; an empty name keeps that encoder's initial values. Returns the encoders whose files
/// contain all of their tensors.
pub(crate) fn load_encoders(model: &Talent, config: &Config, strictness: &Strictness) -> Result<Encoders> {
    let mut encoders = Encoders::default();
    let cfg = &config.weights;
    let files = [("weights.image", &cfg.image, Encoder::Image), ("weights.text", &cfg.text, Encoder::Text)];
    for (key, file, encoder) in files {
        if file.is_empty() {
            continue;
        }
        let path = Path::new(file);
        let advice = match *cfg == Config::testbed().weights {
            true => "make it with `pretrain`".to_owned(),
            false => config.fetch_advice(),
        };
        ensure!(
            path.exists(),
            "weights file {file}: there is no such file; {advice}, or put it there, name another file or folder with \
             --set {key}=PATH, or start from random values with an empty name"
        );
        let report = load_encoder(model, encoder, path, strictness)
            .with_context(|| format!("{key}: the encoder cannot be filled"))?;
        announce(path, &report);
        // Tensors that a file may lack have a constant initial value and are never used.
        let spec = encoder.spec(model.config());
        let optional = |name: &String| spec.optional.iter().any(|one| name.ends_with(one));
        if report.tolerated.iter().all(optional) {
            let found = Some(EncoderFile::of(file)?);
            match encoder {
                Encoder::Image => encoders.image = found,
                Encoder::Text => encoders.text = found,
            }
        }
    }
    load_lora(model, cfg)?;
    Ok(encoders)
}

/// Fills LoRA's matrices from the folders that a config names.
fn load_lora(model: &Talent, cfg: &WeightsConfig) -> Result<()> {
    let folders = [
        ("weights.image_lora", &cfg.image_lora, Encoder::Image),
        ("weights.text_lora", &cfg.text_lora, Encoder::Text),
    ];
    for (key, folder, encoder) in folders {
        if folder.is_empty() {
            continue;
        }
        ensure!(model.config().tuning == Tuning::Lora, "{key}: LoRA matrices need model.tuning=lora");
        ensure_adapter_folder(key, Path::new(folder))?;
        let spec = encoder.spec(model.config());
        let filled = PeftFolder::open(Path::new(folder), &spec).and_then(|peft| peft.fill(model.store()));
        let names = filled.with_context(|| format!("{key}: LoRA's matrices cannot be filled"))?;
        errln!("{folder}: {} matrices", names.len());
    }
    Ok(())
}

/// Refuses what people name in place of an adapter's folder.
fn ensure_adapter_folder(key: &str, folder: &Path) -> Result<()> {
    let shown = folder.display();
    ensure!(!folder.is_file(), "{key}={shown}: it is a file; name the folder that it lies in");
    ensure!(folder.is_dir(), "{key}={shown}: there is no such folder");
    for inside in ["image", "text"] {
        let inside = folder.join(inside);
        ensure!(
            folder.join(PEFT_CONFIG_FILE).exists() || !inside.join(PEFT_CONFIG_FILE).exists(),
            "{key}={shown}: it holds the adapters of both encoders; name one of them, such as {}",
            inside.display()
        );
    }
    Ok(())
}

fn announce(path: &Path, report: &LoadReport) {
    errln!("{}: {report}", path.display());
}

/// Restores network and optimiser from an official training checkpoint and returns the number of epochs it has
/// finished.
///
/// Its `best_iou` is not used: it is the best of earlier epochs (quirk Q15).
pub(crate) fn resume_official(path: &Path, model: &Talent, adam: &mut Adam) -> Result<u64> {
    load_model(model, path, verified_meta(path)?.as_ref(), &Strictness::default(), &EncoderRoot::default())?;
    let mut restore = || -> Result<u64> {
        let mut file = WeightFile::open(path)?;
        let epoch = file.scalars().get("epoch").and_then(|epoch| epoch.as_i64());
        let epoch = epoch.and_then(|epoch| u64::try_from(epoch).ok()).context("it holds no `epoch`")?;
        let sizes = model.optimizer_groups().map(|group| group.len());
        for (group, size) in sizes.iter().enumerate() {
            let prefix = format!("optimizer/param_groups/{group}/params/");
            let found = file.scalars().keys().filter(|name| name.starts_with(&prefix)).count();
            ensure!(
                found == *size,
                "its optimiser has {found} parameters in group {group}, this network has {size}; \
                 does it train the same parts?"
            );
        }
        let mut state = std::collections::BTreeMap::new();
        for (index, name) in adam.names().to_vec().into_iter().enumerate() {
            for kind in ["exp_avg", "exp_avg_sq", "step"] {
                let stored = format!("optimizer/state/{index}/{kind}");
                let value = match file.scalars().get(stored.as_str()).and_then(|scalar| scalar.as_f64()) {
                    // Before version 1.12 PyTorch kept the step as a number.
                    Some(number) => tch::Tensor::from(number as f32),
                    None => read_tensor(&mut file, &stored)?,
                };
                state.insert(format!("{kind}/{name}"), value);
            }
        }
        adam.load_state(|name| state.get(name).map(tch::Tensor::shallow_clone))?;
        Ok(epoch)
    };
    restore().with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recordings::{best_model, golden, recorded};

    #[test]
    fn an_official_training_checkpoint_is_resumed() {
        let model = recorded();
        let mut adam = crate::optim::adam(&model, &crate::config::Config::base().train);
        assert_eq!(resume_official(&best_model(), &model, &mut adam).unwrap(), 1);
        let state = adam.state();
        let find = |name: &str| &state.iter().find(|(known, _)| known == name).unwrap().1;
        assert_eq!(f64::try_from(find("step/proj.txt.bias")).unwrap(), 3.0);
        let recorded = golden().join("checkpoint.safetensors");
        let recorded = tch::Tensor::read_safetensors(recorded).unwrap();
        for (name, expected) in recorded.iter().filter(|(name, _)| name.starts_with("exp_avg")) {
            assert_eq!(find(&name.replacen('.', "/", 1)), expected, "{name}");
        }
    }

    #[test]
    fn an_optimiser_of_other_parts_is_refused() {
        let model = recorded();
        model.train_only(talent::TrainedParts::All);
        let mut adam = crate::optim::adam(&model, &crate::config::Config::base().train);
        let error = format!("{:#}", resume_official(&best_model(), &model, &mut adam).unwrap_err());
        assert!(error.contains("best_model.pth") && error.contains("112 parameters in group 0"), "{error}");
    }
}
