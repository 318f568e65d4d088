//! What a run says about its data before it starts and after it has evaluated: oddities that do not stop it.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use cli_kit::errln;
use refcoco::{Dataset, Findings, LeftOut};

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

/// Leaves refs that cannot be read out of the evaluation of some splits, and says how many.
///
/// # Errors
/// When nothing is left to evaluate.
pub(crate) fn leave_out_unreadable(dataset: &mut Dataset, splits: &[String]) -> Result<()> {
    let LeftOut { refs, n_expressions, n_left } = dataset.leave_out_unreadable(splits).clone();
    let name = &dataset.descriptor.name;
    let reason = refs.values().next().map(|why| format!(": {why}")).unwrap_or_default();
    let present = dataset.refs.iter().any(|reference| splits.contains(&reference.split));
    ensure!(
        n_left > 0 || !present,
        "{name}: no expression of {} can be evaluated{reason}",
        splits.join(", ")
    );
    if n_expressions > 0 {
        let expressions = if n_expressions == 1 { "expression is" } else { "expressions are" };
        errln!(
            "{name}: {n_expressions} of {} {expressions} left out of the evaluation of {}{reason}",
            n_expressions + n_left,
            splits.join(", ")
        );
    }
    Ok(())
}

/// Names of the refs that evaluations leave out, as `data set name/ref_id`.
pub(crate) fn left_out_of_evaluation(datasets: &[Dataset]) -> BTreeSet<String> {
    let of_dataset = |dataset: &'_ Dataset| -> Vec<String> {
        let indices = dataset.left_out_refs().into_iter().flat_map(|left_out| left_out.refs.keys());
        indices.map(|&index| format!("{}/{}", dataset.descriptor.name, dataset.refs[index].ref_id)).collect()
    };
    datasets.iter().flat_map(of_dataset).collect()
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
