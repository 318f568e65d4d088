//! Pretrained encoders.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use talent::Talent;
use tch::Tensor;

use crate::config::WeightsConfig;

/// Loads the encoders a config names; an empty name leaves that encoder as it started.
pub(crate) fn load_encoders(model: &Talent, cfg: &WeightsConfig) -> Result<()> {
    for (file, prefix) in [(&cfg.image, "dinov2."), (&cfg.text, "txt_backbone.")] {
        if !file.is_empty() {
            load_encoder(model, Path::new(file), prefix).with_context(|| format!("weights file {file}"))?;
        }
    }
    Ok(())
}

/// Fills the frozen tensors below `prefix` from a safetensors file that holds them without it.
fn load_encoder(model: &Talent, path: &Path, prefix: &str) -> Result<()> {
    ensure!(
        path.is_file(),
        "there is no such file; put it there, name another one with --set weights.image=FILE or weights.text=FILE, \
         or start from random values with an empty name"
    );
    if path.extension().is_none_or(|extension| extension != "safetensors") {
        bail!("only safetensors files can be read so far; convert it once with Python's safetensors package");
    }
    let mut found: std::collections::BTreeMap<String, Tensor> =
        Tensor::read_safetensors(path)?.into_iter().collect();
    let mut missing = Vec::new();
    for (name, _) in model.store().entries() {
        let Some(short) =
            name.strip_prefix(prefix).filter(|name| !name.contains("adapter.") && !name.contains("ls_gate."))
        else {
            continue;
        };
        match found.remove(short) {
            Some(value) => model.store().assign(&name, &value)?,
            None => missing.push(short.to_owned()),
        }
    }
    ensure!(missing.is_empty(), "it lacks {} tensors, the first is `{}`", missing.len(), missing[0]);
    // CLIP files hold the image tower and three numbers besides.
    let stray = found.keys().find(|name| {
        !name.starts_with("visual.")
            && !["input_resolution", "context_length", "vocab_size"].contains(&name.as_str())
    });
    if let Some(name) = stray {
        bail!("it holds a tensor `{name}` that is not part of this encoder");
    }
    Ok(())
}
