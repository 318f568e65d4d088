//! What an evaluation leaves out because it cannot be read, and what is said of it.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use cli_kit::errln;
use refcoco::{Dataset, LeftOut};

/// Leaves refs that cannot be read out of the evaluation of some splits, and says how many.
///
/// # Errors
/// When nothing is left to evaluate.
pub fn leave_out_unreadable(dataset: &mut Dataset, splits: &[String]) -> Result<()> {
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
pub fn left_out_of_evaluation(datasets: &[Dataset]) -> BTreeSet<String> {
    let of_dataset = |dataset: &'_ Dataset| -> Vec<String> {
        let indices = dataset.left_out_refs().into_iter().flat_map(|left_out| left_out.refs.keys());
        indices.map(|&index| format!("{}/{}", dataset.descriptor.name, dataset.refs[index].ref_id)).collect()
    };
    datasets.iter().flat_map(of_dataset).collect()
}

/// Prints a line if distractors were left out of an evaluation.
pub fn tell_left_out(datasets: &[Dataset]) {
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
