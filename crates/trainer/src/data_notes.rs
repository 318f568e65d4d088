//! What a run says about its data before it starts and after it has evaluated: oddities that do not stop it.

use cli_kit::errln;
use refcoco::{Dataset, Findings};

use crate::experiment::Experiment;

/// Refs whose mask is looked at before a run starts. Decoding takes about a millisecond each.
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

/// Prints a line if distractors were left out of an evaluation.
pub(crate) fn tell_left_out(datasets: &[Dataset]) {
    for dataset in datasets {
        let left_out = dataset.left_out_distractors();
        if let Some(first) = left_out.first() {
            let objects = if left_out.len() == 1 { "object is" } else { "objects are" };
            errln!(
                "{}: {} {objects} left out of the distractors, because the mask cannot be read (the first is annotation \
                 {first}); `data verify` names them",
                dataset.descriptor.name,
                left_out.len()
            );
        }
    }
}
