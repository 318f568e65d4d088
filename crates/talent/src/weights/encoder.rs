use std::collections::BTreeMap;
use std::path::Path;

use torch_ext::Role;
use weight_files::{Encoder, Part, Step, WeightFile, encoder_plan};

use super::report::{LoadReport, Strictness};
use super::{WeightsError, fill};
use crate::model::{ParameterGroup, Talent, parameter_group};

/// Fills a frozen encoder from a file or folder in any of the known layouts. Adapters and gates stay as they are.
///
/// CLIP's `logit_scale`, which no file of the text tower alone holds and the network never uses, may be missing.
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
    let plan = encoder_plan(&file, encoder)?;
    let shown = file.path().display().to_string();
    let (prefix, group, n_heads) = match encoder {
        Encoder::Image => ("dinov2.", ParameterGroup::ImageEncoder, model.config().image.n_heads),
        Encoder::Text => ("txt_backbone.", ParameterGroup::TextEncoder, model.config().text.n_heads),
    };
    if let Some(found) = plan.facts.n_heads.filter(|&found| found != n_heads) {
        let what = format!("config.json says {found} attention heads, but this model has {n_heads}");
        return Err(WeightsError::Different { path: shown, what });
    }

    let mut report = LoadReport {
        layout: plan.layout.to_owned(),
        ignored: plan.ignored.len(),
        unexpected: plan.unexpected,
        ..LoadReport::default()
    };
    let mut parts: BTreeMap<&str, Vec<&Part>> = BTreeMap::new();
    for part in &plan.parts {
        parts.entry(&part.target).or_default().push(part);
    }
    for (name, entry) in model.store().entries() {
        if entry.role != Role::Parameter || parameter_group(&name) != group {
            continue;
        }
        let short = name.strip_prefix(prefix).unwrap_or(&name);
        let found = parts.remove(short).unwrap_or_default();
        let expected = if found.iter().any(|part| matches!(part.step, Step::Third(_))) { 3 } else { 1 };
        if found.len() != expected {
            let optional = short == "logit_scale" || strictness.allows(&name);
            if optional && found.is_empty() { &mut report.tolerated } else { &mut report.missing }.push(name);
            continue;
        }
        let mut fits = true;
        for part in found {
            fits &= fill(&mut file, (&part.source, part.step), &name, &entry.tensor, &mut report)?;
        }
        report.matched += usize::from(fits);
    }
    report.unexpected.extend(parts.into_values().flatten().map(|part| part.source.clone()));
    report.unless_incomplete(shown)
}
