use std::collections::BTreeMap;
use std::path::Path;

use backbone::{EncoderSpec, IMAGE_ENCODER, TEXT_ENCODER};
use torch_ext::{Group, Role, Store};
use weight_files::{EncoderPlan, Part, Settings, Step, WeightFile, encoder_plan};

use super::report::{LoadReport, Strictness};
use super::{WeightsError, fill};
use crate::config::ModelConfig;
use crate::model::Talent;

/// One of the two frozen encoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoder {
    /// The image encoder.
    Image,
    /// The text encoder.
    Text,
}

impl Encoder {
    /// Specification of the encoder, without its input format.
    pub fn spec(self, cfg: &ModelConfig) -> EncoderSpec<()> {
        match self {
            Self::Image => cfg.image.spec().without_input(),
            Self::Text => cfg.text.spec().without_input(),
        }
    }

    /// Parameter group of the encoder itself, without adapters and gates.
    pub fn group(self) -> Group {
        match self {
            Self::Image => IMAGE_ENCODER,
            Self::Text => TEXT_ENCODER,
        }
    }

    /// What the `config.json` beside a file says otherwise than the network's configuration, as names of settings with both values;
    /// nothing if there is none.
    ///
    /// # Errors
    /// When it describes another kind of network, or switches something on that is not known here.
    fn differences(self, cfg: &ModelConfig, file: &WeightFile) -> Result<Vec<String>, String> {
        let Some(settings) = file.config().map(Settings::new) else { return Ok(Vec::new()) };
        match self {
            Self::Image => cfg.image.encoder.differences(&cfg.image.sizes(), &settings),
            Self::Text => cfg.text.encoder.differences(&cfg.text.sizes(), &settings),
        }
    }

    /// Maps the tensors of a file to the encoder's parameters.
    ///
    /// # Errors
    /// When the file does not hold this encoder, or holds one of a different architecture.
    pub fn plan(self, cfg: &ModelConfig, file: &WeightFile) -> Result<EncoderPlan, weight_files::Error> {
        let spec = self.spec(cfg);
        encoder_plan(file, spec.wanted, spec.layouts)
    }
}

/// Fills a frozen encoder from a file or folder in any of the known layouts. Adapters and gates keep their values.
///
/// Parameters listed in [`EncoderSpec::optional`] may be missing from the file.
///
/// # Errors
/// When the file cannot be read, holds another network, or does not fill the encoder exactly.
pub fn load_encoder(
    model: &Talent,
    encoder: Encoder,
    path: &Path,
    strictness: &Strictness,
) -> Result<LoadReport, WeightsError> {
    let mut file = WeightFile::open(path)?;
    let spec = encoder.spec(model.config());
    let shown = file.path().display().to_string();
    let differences = encoder
        .differences(model.config(), &file)
        .map_err(|what| WeightsError::Different { path: shown.clone(), what })?;
    if !differences.is_empty() {
        let what = format!("its config.json says {}", differences.join(", "));
        return Err(WeightsError::Different { path: shown, what });
    }
    fill_encoder(model.store(), encoder.group(), &spec, &mut file, strictness)
}

/// Fills the parameters of one group of a store, an encoder, from a file in any of the encoder's layouts. What a `config.json` says
/// is not looked at.
///
/// # Errors
/// As [`load_encoder`].
pub fn fill_encoder(
    store: &Store,
    group: Group,
    spec: &EncoderSpec<()>,
    file: &mut WeightFile,
    strictness: &Strictness,
) -> Result<LoadReport, WeightsError> {
    let plan = encoder_plan(file, spec.wanted, spec.layouts)?;
    let shown = file.path().display().to_string();
    let mut report = LoadReport {
        layout: match plan.wrapping.as_str() {
            "" => plan.layout.to_owned(),
            wrapping => format!("{} behind `{wrapping}`", plan.layout),
        },
        ignored: plan.ignored.len(),
        unexpected: plan.unexpected,
        ..LoadReport::default()
    };
    let mut parts: BTreeMap<&str, Vec<&Part>> = BTreeMap::new();
    for part in &plan.parts {
        parts.entry(&part.target).or_default().push(part);
    }
    for (name, entry) in store.entries() {
        if entry.role != Role::Parameter || entry.group.name != group.name {
            continue;
        }
        let short = name.strip_prefix(spec.prefix).and_then(|rest| rest.strip_prefix('.')).unwrap_or(&name);
        let found = parts.remove(short).unwrap_or_default();
        let expected = if found.iter().any(|part| matches!(part.step, Step::Third(_))) { 3 } else { 1 };
        if found.len() != expected {
            let optional = spec.optional.contains(&short) || strictness.allows(&name);
            if optional && found.is_empty() { &mut report.tolerated } else { &mut report.missing }.push(name);
            continue;
        }
        let mut fits = true;
        for part in found {
            fits &= fill(file, (&part.source, part.step), &name, &entry.tensor, &mut report)?;
        }
        report.matched += usize::from(fits);
    }
    report.unexpected.extend(parts.into_values().flatten().map(|part| part.source.clone()));
    // The library stores an empty table for a model without registers.
    report.unexpected.retain(|name| file.info(name).is_none_or(|info| !info.shape.contains(&0)));
    report.unless_incomplete(shown)
}
