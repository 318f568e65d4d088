//! LoRA matrices in the files of the `peft` library: a folder with `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use backbone::{EncoderSpec, Projection};
use tch::{Kind, Tensor};
use torch_ext::{LowRankRule, LowRankUpdate, Store};
use weight_files::{PeftConfig, Step, Targets, WEIGHT_FILES, WeightFile, numbered};

use super::{LoadReport, WeightsError, fill, read_tensor};
use crate::tuning::{LoraConfig, layer_name, lora_rule, part_name};

/// What all names in the file begin with.
const WRAPPER: &str = "base_model.model.";

/// A folder that `peft` wrote, opened for one encoder.
#[derive(Debug)]
pub struct PeftFolder {
    config: PeftConfig,
    file: WeightFile,
    /// Names of A and B in the file, by the layer's name in the store and the part's name.
    matrices: BTreeMap<(String, &'static str), [Option<String>; 2]>,
    /// What stands between [`WRAPPER`] and the name of the blocks, such as `model.`.
    front: String,
    /// Spellings of the layers' names that the file uses, by place in the list of names.
    spelling: usize,
    spec: EncoderSpec<()>,
}

/// A tensor's place: the module that it belongs to, and whether it is B.
struct Place {
    front: String,
    block: i64,
    layer: &'static Projection,
    spelling: usize,
    is_up: bool,
}

/// Reads `base_model.model.encoder.layer.0.attention.q_proj.lora_A.weight`.
fn place(name: &str, spec: &EncoderSpec<()>) -> Option<Place> {
    let name = name.strip_prefix(WRAPPER)?;
    let (module, is_up) =
        [(".lora_A", false), (".lora_B", true)].into_iter().find_map(|(matrix, is_up)| {
            // An adapter's own name stands in between where the file was not written by the library itself.
            let ends = [format!("{matrix}.weight"), format!("{matrix}.default.weight")];
            ends.iter().find_map(|end| name.strip_suffix(end.as_str())).map(|module| (module, is_up))
        })?;
    let blocks = format!("{}.", spec.projections.published_blocks);
    spec.projections.layers.iter().find_map(|layer| {
        layer.published.iter().enumerate().find_map(|(spelling, published)| {
            let path = module.strip_suffix(published)?.strip_suffix('.')?;
            let at = path.rfind(&blocks).filter(|&at| at == 0 || path[..at].ends_with('.'))?;
            let block = path[at + blocks.len()..].parse().ok().filter(|&block| block < spec.depth)?;
            Some(Place { front: path[..at].to_owned(), block, layer, spelling, is_up })
        })
    })
}

impl PeftFolder {
    /// Opens a folder and finds the layers that its matrices belong to.
    ///
    /// # Errors
    /// When a file is missing or cannot be read, `adapter_config.json` switches on what is not known here, or a tensor belongs to no
    /// linear layer of the encoder's blocks.
    pub fn open(folder: &Path, spec: &EncoderSpec<()>) -> Result<Self, WeightsError> {
        let config = PeftConfig::read(folder)?;
        check_class(folder, &config, spec)?;
        let there = WEIGHT_FILES.iter().map(|name| folder.join(name)).find(|path| path.exists());
        let file = WeightFile::open(&there.unwrap_or_else(|| folder.join(WEIGHT_FILES[0])))?;
        let shown = file.path().display().to_string();
        let wrong = |what: String| WeightsError::Different { path: shown.clone(), what };
        let mut matrices = BTreeMap::<(String, &'static str), [Option<String>; 2]>::new();
        let mut seen: Option<(String, usize)> = None;
        for (name, _) in file.tensors() {
            let Some(place) = place(name, spec) else {
                return Err(wrong(format!(
                    "`{name}` is no LoRA matrix of a linear layer in the blocks of `{}`",
                    spec.name
                )));
            };
            let Place { front, block, layer, spelling, is_up } = place;
            let is_foreign = |part: &&str| spec.projections.foreign.contains(part);
            if let Some(part) = front.split('.').find(is_foreign) {
                return Err(wrong(format!("`{name}` lies below `{part}`: it is not of `{}`", spec.name)));
            }
            // Layers with one name only say nothing of the spelling.
            let spelling = if layer.published.len() > 1 { spelling } else { 0 };
            let (first, of_names) = seen.get_or_insert((front.clone(), spelling));
            *of_names = spelling.max(*of_names);
            if *first != front {
                return Err(wrong(format!("`{name}` lies below `{front}`, others below `{first}`")));
            }
            let key = (layer_name(spec, block, layer), part_name(layer));
            let before = matrices.entry(key).or_default()[usize::from(is_up)].replace(name.to_owned());
            if let Some(before) = before {
                return Err(wrong(format!("`{before}` and `{name}` are the same matrix")));
            }
        }
        let (front, spelling) = seen.ok_or_else(|| wrong("it holds no LoRA matrix".to_owned()))?;
        let of_config = |what| WeightsError::Different { path: config_file(folder), what };
        let _ = config.targets.matcher().map_err(of_config)?;
        Ok(Self { config, file, matrices, front, spelling, spec: *spec })
    }

    /// What `adapter_config.json` says.
    pub fn config(&self) -> &PeftConfig {
        &self.config
    }

    /// The updates that `adapter_config.json` asks for, for building the encoder.
    ///
    /// # Errors
    /// When `target_modules` is no regular expression.
    pub fn rule(&self) -> Result<LowRankRule, WeightsError> {
        let matches = self.config.targets.matcher();
        let path = || self.file.path().display().to_string();
        let matches = matches.map_err(|what| WeightsError::Different { path: path(), what })?;
        let update = (self.config.rank, self.config.scale(), self.config.dropout);
        Ok(lora_rule(&self.spec, update, |block, layer| matches(&self.module(block, layer))))
    }

    /// A layer's module in the network that the file was made for.
    fn module(&self, block: i64, layer: &Projection) -> String {
        let published = layer.published.get(self.spelling).or(layer.published.first()).unwrap_or(&"");
        format!("{}{}.{block}.{published}", self.front, self.spec.projections.published_blocks)
    }

    /// Fills the updates of a store's encoder. Returns the names of the matrices: in the file, and in the store.
    ///
    /// # Errors
    /// When the file does not hold exactly the matrices of the store's updates of this encoder, or has other ranks or scales.
    pub fn fill(mut self, store: &Store) -> Result<Vec<[String; 2]>, WeightsError> {
        let shown = self.file.path().display().to_string();
        self.check_targets(store, &shown)?;
        let mut report = LoadReport { layout: "peft's names".to_owned(), ..LoadReport::default() };
        let mut names = Vec::new();
        let own = format!("{}.", self.spec.prefix);
        for update in store.low_rank_updates() {
            if !update.layer.starts_with(&own) {
                continue;
            }
            self.check(&update, &shown)?;
            let found = self.matrices.remove(&(update.layer.clone(), update.part.name)).unwrap_or_default();
            let targets: [&Tensor; 2] = [&update.down, &update.up];
            for ((stored, name), target) in found.into_iter().zip(&update.names).zip(targets) {
                let Some(stored) = stored else {
                    report.missing.push(name.clone());
                    continue;
                };
                ensure_finite(&mut self.file, &stored)?;
                let fits = fill(&mut self.file, (&stored, Step::Copy), name, target, &mut report)?;
                report.matched += usize::from(fits);
                names.push([stored, name.clone()]);
            }
        }
        report.unexpected.extend(self.matrices.into_values().flatten().flatten());
        report.unless_incomplete(shown).map(|_| names)
    }

    /// Compares the layers of a store's updates with those that `target_modules` names.
    fn check_targets(&self, store: &Store, shown: &str) -> Result<(), WeightsError> {
        let wrong = |what: String| WeightsError::Different { path: shown.to_owned(), what };
        let matches = self.config.targets.matcher().map_err(wrong)?;
        let has: BTreeSet<(String, &str)> = store
            .low_rank_updates()
            .into_iter()
            .map(|update| (update.layer, update.part.name))
            .filter(|key| key.0.starts_with(&format!("{}.", self.spec.prefix)))
            .collect();
        let names: Vec<String> = store.entries().into_iter().map(|(name, _)| name).collect();
        // `attn.in_proj` is stored as `attn.in_proj_weight`.
        let exists = |layer: &str| {
            names.iter().any(|name| name.strip_prefix(layer).is_some_and(|rest| rest.starts_with(['.', '_'])))
        };
        let (mut named, mut differs, mut partly) = (Vec::new(), false, None);
        for layer in self.spec.projections.layers {
            let blocks = 0..self.spec.depth;
            let key = |block| (layer_name(&self.spec, block, layer), part_name(layer));
            let chosen = blocks.clone().filter(|&block| matches(&self.module(block, layer))).count() as i64;
            // Gated and plain MLPs have other layers, of which a network has one kind.
            if !blocks.clone().any(|block| exists(&key(block).0)) {
                continue;
            }
            if chosen > 0 {
                named.push(format!("\"{}\"", layer.role.name()));
            }
            differs |=
                blocks.clone().any(|block| has.contains(&key(block)) != matches(&self.module(block, layer)));
            if chosen > 0 && chosen < self.spec.depth {
                partly = Some((layer.role.name(), chosen));
            }
        }
        match (differs, partly) {
            (false, _) => Ok(()),
            (true, Some((layer, chosen))) => Err(wrong(format!(
                "its adapter_config.json adapts the layer `{layer}` in {chosen} of {} blocks; here it is all or none",
                self.spec.depth
            ))),
            (true, None) => Err(wrong(format!(
                "its adapter_config.json adapts other layers than model.lora does here; set the targets of this encoder to [{}]",
                named.join(",")
            ))),
        }
    }

    /// Compares rank and scale of an update with what `adapter_config.json` says.
    fn check(&self, update: &LowRankUpdate, shown: &str) -> Result<(), WeightsError> {
        let (rank, scale) = (update.part.rank, update.part.scale);
        let fits =
            rank == self.config.rank && (scale - self.config.scale()).abs() < 1e-9 * scale.abs().max(1.0);
        if fits {
            return Ok(());
        }
        let PeftConfig { rank: r, alpha, rslora, .. } = &self.config;
        Err(WeightsError::Different {
            path: shown.to_owned(),
            what: format!(
                "its adapter_config.json says r {r}, lora_alpha {alpha}, use_rslora {rslora} (here rank {rank}, scale {scale}); set \
                 model.lora.rank={r}, model.lora.alpha={alpha}, model.lora.rslora={rslora}"
            ),
        })
    }
}

fn config_file(folder: &Path) -> String {
    folder.join(weight_files::PEFT_CONFIG_FILE).display().to_string()
}

/// Refuses an adapter that says it is for another kind of network.
fn check_class(folder: &Path, config: &PeftConfig, spec: &EncoderSpec<()>) -> Result<(), WeightsError> {
    let known = spec.projections.published_classes;
    match &config.base_class {
        Some(class) if !known.iter().any(|front| class.starts_with(front)) => Err(WeightsError::Different {
            path: config_file(folder),
            what: format!("it is for the class `{class}`, not for `{}`", spec.name),
        }),
        _ => Ok(()),
    }
}

fn ensure_finite(file: &mut WeightFile, stored: &str) -> Result<(), WeightsError> {
    let path = file.path().display().to_string();
    let value = read_tensor(file, stored)?;
    match f64::try_from(value.isfinite().logical_not().sum(Kind::Int64)) {
        Ok(0.0) => Ok(()),
        _ => Err(WeightsError::Different {
            path,
            what: format!("`{stored}` holds numbers that are not finite"),
        }),
    }
}

/// The updates of one encoder as `peft` would write them: the tensors by their names in its file, and `adapter_config.json`. None if
/// the encoder has no updates.
pub fn peft_tensors(
    store: &Store,
    spec: &EncoderSpec<()>,
    lora: &LoraConfig,
) -> Option<(Vec<(String, Tensor)>, PeftConfig)> {
    let mut tensors = Vec::new();
    let mut modules: Vec<String> = Vec::new();
    let below = format!("{}.{}.", spec.prefix, spec.projections.blocks);
    for update in store.low_rank_updates() {
        let Some((block, layer)) = update.layer.strip_prefix(&below).and_then(numbered) else { continue };
        let projection = spec
            .projections
            .layers
            .iter()
            .find(|projection| projection.layer == layer && projection.rows == update.part.rows);
        let Some(published) = projection.and_then(|projection| projection.published.first()) else {
            continue;
        };
        let module = published.rsplit('.').next().unwrap_or(published).to_owned();
        if !modules.contains(&module) {
            modules.push(module);
        }
        let path = format!(
            "{WRAPPER}{}{}.{block}.{published}",
            spec.projections.published_front, spec.projections.published_blocks
        );
        tensors.push((format!("{path}.lora_A.weight"), update.down));
        tensors.push((format!("{path}.lora_B.weight"), update.up));
    }
    let config = PeftConfig {
        rank: lora.rank,
        alpha: lora.alpha,
        rslora: lora.rslora,
        dropout: lora.dropout,
        targets: Targets::Named(modules),
        base_class: None,
    };
    (!tensors.is_empty()).then_some((tensors, config))
}
