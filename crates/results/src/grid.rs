use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use figures::{Canvas, Compared, ComparisonRow, comparison_sheet};
use run_files::{Key, Predictions};

use crate::read::Run;
use crate::summary::{Summary, expressions_of};
use run_files::ExpressionLine;

/// Number of expressions in a grid.
const ROWS: usize = 12;

/// File in which a run keeps its predicted masks.
const FILE: &str = "predictions.jsonl";

/// Draws the predictions of one run per line of a summary, all of one seed, for the expressions on which the IoUs differ most,
/// one per image.
///
/// # Errors
/// Says why there is no grid: fewer than two lines share a seed with predictions, or a file or image cannot be read.
pub(crate) fn grid(runs: &[Run], summary: &Summary, data_root: &Path) -> Result<Canvas, String> {
    let (models, chosen) = runs_of_one_seed(runs, summary)?;
    let dataset_name = *chosen[0].datasets().first().ok_or("its config names no data set")?;
    let dataset =
        command_kit::open(dataset_name, data_root).map_err(|error| format!("{dataset_name}: {error:#}"))?;
    let iou = |one: &ExpressionLine| one.evaluated.activation.overlap.iou();
    let answers: Vec<_> = chosen.iter().map(|run| expressions_of(run, &summary.split)).collect();
    let mut spread: Vec<(f64, Key)> = answers[0]
        .keys()
        .filter_map(|key| {
            let values =
                answers.iter().map(|of| of.get(key).map(|one| iou(one))).collect::<Option<Vec<f64>>>()?;
            let (low, high) =
                (values.iter().copied().fold(1.0, f64::min), values.iter().copied().fold(0.0, f64::max));
            Some((high - low, *key))
        })
        .collect();
    spread.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let references: BTreeMap<i64, &refcoco::Ref> =
        dataset.refs.iter().map(|reference| (reference.ref_id, reference)).collect();
    let (mut seen, mut keys) = (BTreeSet::new(), Vec::new());
    for (_, key) in spread {
        let image = references.get(&key.0).map(|reference| reference.image_id);
        if keys.len() < ROWS && image.is_some_and(|image| seen.insert(image)) {
            keys.push(key);
        }
    }
    let read =
        |run: &&Run| Predictions::read(&run.path.join(FILE), &dataset).map_err(|error| format!("{error:#}"));
    let masks = chosen.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let mut rows = Vec::new();
    for key in keys {
        let reference = references[&key.0];
        let image = dataset.image(reference.image_id).map_err(|error| error.to_string())?;
        let target = dataset.target(reference).map_err(|error| error.to_string())?;
        let expression = reference.expressions.iter().find(|one| one.sent_id == key.1);
        let mut predictions = Vec::new();
        for (of, masks) in answers.iter().zip(&masks) {
            let mask = masks.mask(key, image.width, image.height).map_err(|error| format!("{error:#}"))?;
            let verdict = command_kit::verdict(&of[&key].evaluated.activation);
            predictions.push(Compared { mask: mask.data, iou: iou(of[&key]), verdict });
        }
        rows.push(ComparisonRow {
            picture: Canvas::from_rgb(image.width, image.height, image.data),
            expression: expression.map(|one| one.sent.clone()).unwrap_or_default(),
            target: target.data,
            predictions,
        });
    }
    Ok(comparison_sheet(&models, &rows))
}

/// Names of lines and their runs of one seed: that for which most lines have predictions.
fn runs_of_one_seed<'a>(runs: &'a [Run], summary: &Summary) -> Result<(Vec<String>, Vec<&'a Run>), String> {
    let with_predictions: Vec<&Run> = runs.iter().filter(|run| run.path.join(FILE).is_file()).collect();
    let seeds: BTreeSet<u64> = with_predictions.iter().map(|run| run.seed).collect();
    let of_seed = |seed: u64| -> Vec<(String, &'a Run)> {
        let lines = summary.lines.iter().filter_map(|line| {
            let run = with_predictions.iter().find(|run| run.seed == seed && run.row == line.group)?;
            Some((line.group.clone(), *run))
        });
        lines.collect()
    };
    // If several seeds have equally many lines, the smallest seed.
    let best = seeds.into_iter().rev().map(of_seed).max_by_key(Vec::len).unwrap_or_default();
    if best.len() < 2 {
        return Err("fewer than two lines have predictions (predictions.jsonl) of one seed".into());
    }
    Ok(best.into_iter().unzip())
}
