use std::collections::BTreeMap;
use std::path::Path;

use weight_files::{Step, WeightFile, wrapping};

use super::report::{LoadReport, Strictness};
use super::{WeightsError, fill};
use crate::model::Talent;

/// Modules that the network has with every encoder.
const MODULES: [&str; 3] = ["neck.", "decoder.", "proj."];

/// Maps official tensor names to the names in the file. Checkpoints keep the state dict in a dictionary (`state_dict/`,
/// `model/`), and training programs add `module.` or `_orig_mod.` ([`wrapping`]). A plain state dict has the official names.
pub fn official_names(file: &WeightFile) -> BTreeMap<String, String> {
    let wrapping = wrapping(file, &|name| MODULES.iter().any(|module| name.starts_with(module)));
    let own = file.tensors().filter_map(|(name, _)| Some((name, name.strip_prefix(wrapping.as_str())?)));
    own.map(|(stored, name)| (name.to_owned(), stored.to_owned())).collect()
}

/// Fills the whole network, buffers included, from an official `best_model.pth` or any state dict with the official names, with
/// or without the prefix `module.`.
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
        let fits = fill(&mut file, (&stored, Step::Copy), &name, &entry.tensor, &mut report)?;
        report.matched += usize::from(fits);
    }
    report.unexpected.extend(names.into_values());
    report.unless_incomplete(file.path().display().to_string())
}
