//! What a run says about its data before it starts: oddities that do not stop it.

use cli_kit::errln;
use refcoco::{Dataset, Findings};

use crate::experiment::Experiment;

/// Number of refs whose masks are checked before a run starts. Decoding takes about a millisecond each.
const MAX_MASKS: usize = 2000;

/// Prints a line about the refs of some splits, if anything about them is odd.
///
/// - is_used: whether the run uses this split of the data set
pub(crate) fn tell_findings(experiment: &Experiment, is_used: impl Fn(&Dataset, &String) -> bool) {
    let word_len = experiment.shape().word_len;
    for dataset in experiment.datasets.iter() {
        let refs: Vec<usize> =
            (0..dataset.refs.len()).filter(|&index| is_used(dataset, &dataset.refs[index].split)).collect();
        let found: Findings = dataset.findings(&refs, &*experiment.tokenizer, word_len, MAX_MASKS);
        if !found.is_empty() {
            errln!("{}: {found}; `data verify` names them", dataset.descriptor.name);
        }
    }
}

/// Prints a line for each data set without a validation split.
pub(crate) fn tell_missing_validation(datasets: &[Dataset]) {
    for dataset in datasets.iter().filter(|dataset| !dataset.has_validation_split()) {
        errln!(
            "{}: no ref is in the validation split `{}` (there are {}), so the best model cannot be selected on it",
            dataset.descriptor.name,
            dataset.descriptor.val,
            dataset.splits().join(", ")
        );
    }
}
