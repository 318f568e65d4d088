use std::collections::BTreeMap;
use std::path::Path;

use tch::Tensor;
use torch_ext::Role;
use weight_files::{Encoder, Part, Step, WeightFile, encoder_plan};

use super::report::{Cast, LoadReport, Strictness};
use super::{WeightsError, read_tensor};
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
            fits &= fill(&mut file, part, &name, &entry.tensor, &mut report)?;
        }
        report.matched += usize::from(fits);
    }
    report.unexpected.extend(parts.into_values().flatten().map(|part| part.source.clone()));
    if report.is_complete() {
        Ok(report)
    } else {
        Err(WeightsError::Mismatch { path: shown, report: Box::new(report) })
    }
}

/// Puts one stored tensor into its place; false if the shape differs.
fn fill(
    file: &mut WeightFile,
    part: &Part,
    name: &str,
    target: &Tensor,
    report: &mut LoadReport,
) -> Result<bool, WeightsError> {
    let Some(info) = file.info(&part.source).cloned() else { return Ok(false) };
    let mut place = match part.step {
        Step::Third(index) => {
            let rows = target.size()[0] / 3;
            target.narrow(0, index as i64 * rows, rows)
        }
        Step::Copy | Step::Transpose => target.shallow_clone(),
    };
    let mut expected = place.size();
    if part.step == Step::Transpose {
        expected.reverse();
    }
    if !info.shape.iter().map(|&n| n as i64).eq(expected.iter().copied()) {
        report.mismatched.push((name.to_owned(), info.shape, expected));
        return Ok(false);
    }
    let mut value = read_tensor(file, &part.source)?;
    if value.kind() != place.kind() {
        let cast = Cast { from: info.element, to: format!("{:?}", place.kind()) };
        *report.casts.entry(cast).or_default() += 1;
    }
    if part.step == Step::Transpose {
        value = value.transpose(0, 1);
    }
    tch::no_grad(|| place.copy_(&value));
    Ok(true)
}
