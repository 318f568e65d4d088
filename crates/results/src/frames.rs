use std::path::Path;

use metrics::{GroupReport, METRICS};
use polars::prelude::*;

use crate::Error;
use crate::read::Run;

/// A run, one of its splits, a group of that split's expressions, and its report.
type Line<'a> = (&'a Run, &'a str, String, &'a GroupReport);

/// One row per run, split and group (`all` is the whole split): every metric, and the run's time and memory.
///
/// # Errors
/// Never in practice: Polars fails only if columns differ in length.
pub fn runs_frame(runs: &[Run]) -> PolarsResult<DataFrame> {
    let mut lines: Vec<Line<'_>> = Vec::new();
    for run in runs {
        for (split, report) in &run.splits {
            lines.push((run, split, "all".to_owned(), &report.all));
            lines
                .extend(report.groups.iter().map(|(name, group)| (run, split.as_str(), name.clone(), group)));
        }
    }
    let text = |name: &str, of: &dyn Fn(&Line<'_>) -> String| {
        Column::new(name.into(), lines.iter().map(of).collect::<Vec<String>>())
    };
    let number = |name: &str, of: &dyn Fn(&GroupReport) -> Option<f64>| {
        Column::new(name.into(), lines.iter().map(|line| of(line.3)).collect::<Vec<Option<f64>>>())
    };
    let count = |name: &str, of: &dyn Fn(&GroupReport) -> usize| {
        Column::new(name.into(), lines.iter().map(|line| of(line.3) as i64).collect::<Vec<i64>>())
    };
    let of_run = |name: &str, of: &dyn Fn(&Run) -> Option<f64>| {
        Column::new(name.into(), lines.iter().map(|line| of(line.0)).collect::<Vec<Option<f64>>>())
    };
    let mut columns = vec![
        text("run", &|line| line.0.path.display().to_string()),
        text("row", &|line| line.0.row.clone()),
        Column::new("seed".into(), lines.iter().map(|line| line.0.seed as i64).collect::<Vec<i64>>()),
        text("split", &|line| line.1.to_owned()),
        text("group", &|line| line.2.clone()),
    ];
    columns.extend(METRICS.iter().map(|metric| number(metric.key, &metric.of)));
    columns.extend([
        count("n_expressions", &|report| report.segmentation.n_expressions),
        count("n_with_distractors", &|report| report.nta.n_with_distractors),
        of_run("trained_values", &|run| Some(run.trained_values as f64)),
        of_run("step_seconds", &|run| run.step_seconds),
        of_run("peak_rss_mib", &|run| run.peak_rss_mib),
    ]);
    DataFrame::new_infer_height(columns)
}

/// One row per expression of a run: pixel counts, probability masses and the metrics derived from them.
///
/// # Errors
/// Never in practice: Polars fails only if columns differ in length.
pub fn expressions_frame(runs: &[Run]) -> PolarsResult<DataFrame> {
    let lines: Vec<_> =
        runs.iter().flat_map(|run| run.expressions.iter().map(move |expression| (run, expression))).collect();
    macro_rules! column {
        ($name:literal, |$run:ident, $one:ident| $value:expr) => {
            Column::new(
                $name.into(),
                lines
                    .iter()
                    .map(|&($run, expression)| {
                        let $one = &expression.evaluated;
                        let _ = ($run, $one);
                        $value
                    })
                    .collect::<Vec<_>>(),
            )
        };
    }
    let splits: Vec<&str> = lines.iter().map(|(_, expression)| expression.split.as_str()).collect();
    DataFrame::new_infer_height(vec![
        column!("row", |run, one| run.row.as_str()),
        column!("seed", |run, one| run.seed as i64),
        Column::new("split".into(), splits),
        column!("ref_id", |run, one| one.ref_id),
        column!("sent_id", |run, one| one.sent_id),
        column!("position_word", |run, one| one.has_position_word),
        column!("flavour", |run, one| one.flavour.as_deref()),
        column!("intersection", |run, one| one.activation.overlap.intersection as u32),
        column!("prediction", |run, one| one.activation.overlap.prediction as u32),
        column!("target", |run, one| one.activation.overlap.target as u32),
        column!("iou", |run, one| one.activation.overlap.iou() as f32),
        column!("box_iou", |run, one| one.box_iou.map(|iou| iou as f32)),
        column!("n_distractors", |run, one| one.activation.distractors.len() as u32),
        column!("target_mass", |run, one| one.activation.target_mass as f32),
        column!("distractor_mass", |run, one| one.activation.distractor_mass as f32),
        column!("nta_mass", |run, one| one.activation.nta_mass().map(|mass| mass as f32)),
        column!("covers_a_distractor", |run, one| one.activation.covers_a_distractor()),
        column!("identity_error", |run, one| one.activation.is_identity_error()),
    ])
}

/// Writes a frame as CSV.
///
/// # Errors
/// When the file cannot be written.
pub fn write_csv(path: &Path, frame: &mut DataFrame) -> Result<(), Error> {
    let polars = |source| Error::Polars { path: path.to_path_buf(), source };
    whole_file::write_with(path, |file| CsvWriter::new(file).finish(frame).map_err(polars))
}

/// Writes a frame as Parquet.
///
/// # Errors
/// When the file cannot be written.
pub fn write_parquet(path: &Path, frame: &mut DataFrame) -> Result<(), Error> {
    let polars = |source| Error::Polars { path: path.to_path_buf(), source };
    whole_file::write_with(path, |file| ParquetWriter::new(file).finish(frame).map(|_| ()).map_err(polars))
}
