use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use talent::{ModelConfig, Talent};
use tch::{Device, Kind, Tensor};

use crate::case::read_tensors;
use crate::json::read_json;

/// A folder of recordings, and the network that it was made with.
#[derive(Debug)]
pub(crate) struct Recorded {
    path: PathBuf,
    /// Device of the network.
    pub(crate) device: Device,
    pub(crate) model: ModelConfig,
    /// The folder's `config.json`.
    pub(crate) config: Value,
    init: OnceCell<BTreeMap<String, Tensor>>,
}

impl Recorded {
    pub(crate) fn open(path: &Path, device: Device) -> Result<Self> {
        let config = read_json(&path.join("config.json"))?;
        let model = model_config(&config).with_context(|| path.join("config.json").display().to_string())?;
        model.validate()?;
        Ok(Self { path: path.to_path_buf(), device, model, config, init: OnceCell::new() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Names of the cases whose files are directly in this folder.
    pub(crate) fn case_names(&self) -> Result<Vec<String>> {
        let names =
            self.entries()?.into_iter().filter_map(|name| name.strip_suffix(".json").map(str::to_owned));
        Ok(names.filter(|name| name != "config").collect())
    }

    /// Names of all other files and folders with recordings.
    pub(crate) fn other_entries(&self) -> Result<Vec<String>> {
        let cases = self.case_names()?;
        let known = |name: &String| {
            let stem = name.strip_suffix(".json").or_else(|| name.strip_suffix(".safetensors"));
            ["README.md", "config.json", FILES].contains(&name.as_str())
                || stem.is_some_and(|stem| cases.iter().any(|case| case == stem))
        };
        Ok(self.entries()?.into_iter().filter(|name| !known(name)).collect())
    }

    fn entries(&self) -> Result<Vec<String>> {
        list(&self.path)
    }

    /// The recorded initial values.
    pub(crate) fn init(&self) -> Result<&BTreeMap<String, Tensor>> {
        if self.init.get().is_none() {
            let tensors = read_tensors(&self.path.join("model_init.safetensors"), self.device)?;
            let _ = self.init.set(tensors);
        }
        self.init.get().context("model_init")
    }

    /// The network filled with zeros, all of which loading must replace.
    pub(crate) fn blank_network(&self) -> Result<Talent> {
        let network = Talent::new(&self.model, self.device, Kind::Float)?;
        for (_, entry) in network.store().entries() {
            tch::no_grad(|| {
                let _ = entry.tensor.shallow_clone().zero_();
            });
        }
        Ok(network)
    }

    /// The network with the recorded initial values.
    pub(crate) fn network(&self, kind: Kind) -> Result<Talent> {
        let network = Talent::new(&self.model, self.device, kind)?;
        let init = self.init()?;
        for (name, _) in network.store().entries() {
            let value = init.get(&name).with_context(|| format!("model_init lacks `{name}`"))?;
            network.store().assign(&name, value)?;
        }
        Ok(network)
    }
}

/// A list of all files of a folder of recordings, one path a line, so that an incomplete copy is noticed.
const FILES: &str = "files.txt";

/// Checks that every file is there which the folder's own list names. A folder without a list is taken as it is.
///
/// # Errors
/// Names the first file that is missing, and how many are.
pub(crate) fn ensure_whole(folder: &Path) -> Result<()> {
    let Ok(listed) = std::fs::read_to_string(folder.join(FILES)) else { return Ok(()) };
    let missing: Vec<&str> =
        listed.lines().filter(|name| !name.is_empty() && !folder.join(name).is_file()).collect();
    ensure!(
        missing.is_empty(),
        "{}: {} of the files that {FILES} lists are missing, first {}: copy the folder again",
        folder.display(),
        missing.len(),
        missing[0]
    );
    Ok(())
}

/// Sorted names of a folder's entries, without hidden ones.
pub(crate) fn list(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// The network's configuration, from a `config.json`.
fn model_config(config: &Value) -> Result<ModelConfig> {
    let int = |pointer: &str| {
        config.pointer(pointer).and_then(Value::as_i64).with_context(|| format!("no integer at {pointer}"))
    };
    let ints = |pointer: &str| -> Result<Vec<i64>> {
        let list = config.pointer(pointer).and_then(Value::as_array);
        let list = list.with_context(|| format!("no list at {pointer}"))?;
        list.iter().map(|n| n.as_i64().with_context(|| format!("{pointer} holds something else"))).collect()
    };
    let mut model = ModelConfig::base();
    model.input_size = int("/input_size")?;
    model.word_len = int("/clip/word_len")?;
    let image = &mut model.image;
    image.width = int("/dino/embed_dim")?;
    image.depth = int("/dino/depth")?;
    image.n_heads = int("/dino/num_heads")?;
    image.mlp_ratio = int("/dino/mlp_ratio")?;
    image.patch_size = int("/patch_size")?;
    image.n_registers = int("/num_register_tokens")?;
    image.position_grid = int("/dino/pos_grid")?;
    let taps = ints("/dino/output_layers")?;
    ensure!(taps.len() == 2, "dino.output_layers must list two blocks");
    image.taps = [taps[0], taps[1]];
    image.adapter_blocks = ints("/dino/adapter_layers")?;
    image.adapter_width = int("/dino/adapter_dim")?;
    image.fusion_width = int("/dino/cost_dim")?;
    let text = &mut model.text;
    text.width = int("/clip/width")?;
    text.depth = int("/clip/layers")?;
    text.n_heads = int("/clip/heads")?;
    text.vocabulary = int("/clip/vocab")?;
    text.context = int("/clip/context_length")?;
    text.state_width = int("/clip/embed_dim")?;
    text.adapter_blocks = ints("/clip/adapter_layers")?;
    text.adapter_width = int("/clip/adapter_dim")?;
    model.head.width = int("/neck/d_model")?;
    model.decoder.depth = int("/decoder/num_layers")?;
    model.decoder.n_heads = int("/decoder/nhead")?;
    model.decoder.ffn_width = int("/decoder/dim_ffn")?;
    model.decoder.dropout =
        config.pointer("/decoder/dropout_in_goldens").and_then(Value::as_f64).unwrap_or(0.0);
    let fixed = [
        ("/dino/cost_words", model.word_len),
        ("/decoder/d_model", model.head.width),
        ("/neck/out_channels/1", model.head.width),
        ("/projector/word_dim", model.text.state_width),
        ("/projector/in_dim", model.head.width / 2),
        ("/projector/kernel_size", 3),
    ];
    for (pointer, ours) in fixed {
        let found = int(pointer)?;
        ensure!(found == ours, "{pointer} is {found}; this network computes with {ours}");
    }
    Ok(model)
}
