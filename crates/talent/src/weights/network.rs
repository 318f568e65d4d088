use std::collections::BTreeMap;
use std::path::Path;

use weight_files::WeightFile;

use super::report::{Cast, LoadReport, Strictness};
use super::{WeightsError, read_tensor};
use crate::model::Talent;

/// The file's name of every tensor of a whole network, by official name. An official training checkpoint keeps them
/// in a dictionary `state_dict`, and data-parallel training puts `module.` in front; a plain state dictionary has
/// the official names themselves.
pub fn official_names(file: &WeightFile) -> BTreeMap<String, String> {
    let nested = file.tensors().any(|(name, _)| name.starts_with("state_dict/"));
    let own = file.tensors().filter_map(|(name, _)| match nested {
        true => Some((name, name.strip_prefix("state_dict/")?)),
        false => Some((name, name)),
    });
    own.map(|(stored, name)| (name.strip_prefix("module.").unwrap_or(name).to_owned(), stored.to_owned()))
        .collect()
}

/// Fills the whole network, buffers included, from an official `best_model.pth` or any state dictionary with the
/// official names, with or without `module.` in front.
///
/// # Errors
/// When the file cannot be read or does not fill the network exactly: a checkpoint for 17 words does not fit a network
/// for 22, and the report names the tensors and both shapes.
pub fn load_network(
    model: &Talent,
    path: &Path,
    strictness: &Strictness,
) -> Result<LoadReport, WeightsError> {
    let mut file = WeightFile::open(path)?;
    let mut names = official_names(&file);
    let mut report = LoadReport { layout: "TALENT's own names".to_owned(), ..LoadReport::default() };
    for (name, entry) in model.store().entries() {
        let Some(stored) = names.remove(&name) else {
            let allowed = strictness.allows(&name);
            if allowed { &mut report.tolerated } else { &mut report.missing }.push(name);
            continue;
        };
        let Some(info) = file.info(&stored).cloned() else { continue };
        let mut target = entry.tensor;
        if !info.shape.iter().map(|&n| n as i64).eq(target.size()) {
            report.mismatched.push((name, info.shape, target.size()));
            continue;
        }
        let value = read_tensor(&mut file, &stored)?;
        if value.kind() != target.kind() {
            let cast = Cast { from: info.element, to: format!("{:?}", target.kind()) };
            *report.casts.entry(cast).or_default() += 1;
        }
        tch::no_grad(|| target.copy_(&value));
        report.matched += 1;
    }
    report.unexpected.extend(names.into_values());
    if report.is_complete() {
        Ok(report)
    } else {
        Err(WeightsError::Mismatch { path: file.path().display().to_string(), report: Box::new(report) })
    }
}
