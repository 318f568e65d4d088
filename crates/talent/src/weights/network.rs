use std::collections::BTreeMap;
use std::path::Path;

use weight_files::{Step, WeightFile};

use super::report::{LoadReport, Strictness};
use super::{WeightsError, fill};
use crate::model::Talent;

/// Dictionaries that a network lies in: of an official training checkpoint, and of a training state of ours.
const CONTAINERS: [&str; 2] = ["state_dict/", "model/"];

/// The file's name of every tensor of a whole network, by official name. A checkpoint that holds more than the network keeps it
/// in a dictionary, and data-parallel training puts `module.` in front; a plain state dictionary has the official names themselves.
pub fn official_names(file: &WeightFile) -> BTreeMap<String, String> {
    let is_there = |container: &&str| file.tensors().any(|(name, _)| name.starts_with(container));
    let container = CONTAINERS.into_iter().find(is_there).unwrap_or_default();
    let own = file.tensors().filter_map(|(name, _)| Some((name, name.strip_prefix(container)?)));
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
        let fits = fill(&mut file, (&stored, Step::Copy), &name, &entry.tensor, &mut report)?;
        report.matched += usize::from(fits);
    }
    report.unexpected.extend(names.into_values());
    report.unless_incomplete(file.path().display().to_string())
}
