//! Metrics of predicted masks in a file.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use cli_kit::{errln, outln};
use metrics::{Evaluated, SplitReport};
use rayon::prelude::*;
use refcoco::Dataset;
use refcoco::evaluation::{Query, queries};
use run_files::{Predictions, key_of};
use serde_json::json;

use crate::data_root::{DEFAULT_DATA_ROOT, open};
use crate::left_out::{leave_out_unreadable, left_out_of_evaluation, tell_left_out};
use crate::measure::measure_mask;
use crate::metrics_table::metrics_table;
use crate::progress::Progress;
use crate::suite::Suite;

/// Arguments of `score`.
#[derive(Debug, Args)]
pub struct ScoreArgs {
    /// JSONL file, one line per expression: {"ref_id": 1, "sent_id": 2, "segmentation": {"size": [h, w], "counts": "..."}}
    #[arg(long, value_name = "FILE")]
    pub predictions: PathBuf,
    /// Data set, such as refcoco
    #[arg(long, required_unless_present = "suite")]
    pub dataset: Option<String>,
    /// Score on every data set of a suite that is below the data root: robustness, or names of data sets separated by commas.
    /// --predictions may then be a folder with one NAME.jsonl a data set
    #[arg(long, value_name = "NAME", conflicts_with_all = ["dataset", "split"])]
    pub suite: Option<String>,
    /// Folder of the data sets
    #[arg(long, default_value = DEFAULT_DATA_ROOT)]
    pub data_root: PathBuf,
    /// Splits, separated by commas [default: the data set's validation split]
    #[arg(long, value_delimiter = ',')]
    pub split: Vec<String>,
    /// Leave out expressions whose image or target cannot be read, for example images of another size than their record, and
    /// count them
    #[arg(long)]
    pub skip_unreadable: bool,
    /// Leave out expressions without a line, and count them
    #[arg(long, conflicts_with = "suite")]
    pub skip_unanswered: bool,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    /// Also write the suite's report to this file as HTML
    #[arg(long, value_name = "FILE", requires = "suite")]
    pub html: Option<PathBuf>,
}

/// Prints metrics of a file of masks, with probability 1 inside a mask and 0 outside.
///
/// # Errors
/// When a line is malformed, has an unknown or repeated expression, or a mask of another size than the image; the message names
/// the file and line. Also when an expression has no line; the message names the expression.
pub fn score(args: &ScoreArgs) -> Result<()> {
    if let Some(name) = &args.suite {
        return score_suite(args, name);
    }
    let name = args.dataset.as_deref().context("--dataset or --suite is missing")?;
    let mut dataset = open(name, &args.data_root)?;
    let splits = match args.split.is_empty() {
        true => vec![dataset.descriptor.val.clone()],
        false => args.split.clone(),
    };
    if args.skip_unreadable {
        leave_out_unreadable(&mut dataset, &splits)?;
    }
    let predictions = Predictions::read(&args.predictions, &dataset)?;
    let mut rows = Vec::new();
    for split in &splits {
        let mut asked = queries(&dataset, split)?;
        if args.skip_unanswered {
            let n = asked.len();
            asked.retain(|query| predictions.contains(key_of(&dataset, query)));
            if asked.len() < n {
                errln!("note: {split}: {} of {n} expressions have no line and are left out", n - asked.len());
            }
        }
        ensure_answered(&dataset, split, &asked, &predictions, &args.predictions)
            .map_err(|error| anyhow!("{error}; --skip-unanswered scores the others"))?;
        rows.push((split.clone(), score_queries(&dataset, split, &asked, &predictions)?));
    }
    tell_left_out(std::slice::from_ref(&dataset));
    match args.json {
        true => {
            let mut head = json!({"predictions": args.predictions.to_string_lossy()});
            let left_out = left_out_of_evaluation(std::slice::from_ref(&dataset));
            if !left_out.is_empty() {
                head["left_out_refs"] = json!(left_out);
            }
            outln!("{}", reports_json(&head, rows)?)
        }
        false => outln!("{}", metrics_table(&rows)),
    }
    Ok(())
}

fn score_suite(args: &ScoreArgs, name: &str) -> Result<()> {
    let suite = Suite {
        predictions: &args.predictions,
        name,
        data_root: &args.data_root,
        skip_unreadable: args.skip_unreadable,
    };
    let report = suite.score()?;
    if let Some(path) = &args.html {
        whole_file::write(path, report.html(&suite).as_bytes())?;
    }
    match args.json {
        true => outln!("{}", report.json(&suite)?),
        false => report.print(),
    }
    Ok(())
}

/// The JSON document `{"splits": {NAME: REPORT}}`, with the keys of `head` in front.
///
/// # Errors
/// When a number cannot be written as JSON.
pub fn reports_json(head: &serde_json::Value, rows: Vec<(String, SplitReport)>) -> Result<serde_json::Value> {
    let mut document = head.clone();
    let reports = rows.into_iter().map(|(name, report)| Ok((name, serde_json::to_value(report)?)));
    document["splits"] = serde_json::Value::Object(reports.collect::<Result<_>>()?);
    Ok(document)
}

/// # Errors
/// When an expression of the split has no predicted mask; says how many.
pub(crate) fn score_split(
    dataset: &Dataset,
    split: &str,
    predictions: &Predictions,
    path: &Path,
) -> Result<SplitReport> {
    let queries = queries(dataset, split)?;
    ensure_answered(dataset, split, &queries, predictions, path)?;
    score_queries(dataset, split, &queries, predictions)
}

fn ensure_answered(
    dataset: &Dataset,
    split: &str,
    queries: &[Query],
    predictions: &Predictions,
    path: &Path,
) -> Result<()> {
    let unanswered: Vec<&Query> =
        queries.iter().filter(|query| !predictions.contains(key_of(dataset, query))).collect();
    if let Some(first) = unanswered.first() {
        let (ref_id, sent_id) = key_of(dataset, first);
        bail!(
            "{}: {} of {} expressions of {split} have no line, the first is ref_id {ref_id}, sent_id {sent_id}",
            path.display(),
            unanswered.len(),
            queries.len()
        );
    }
    Ok(())
}

fn score_queries(
    dataset: &Dataset,
    split: &str,
    queries: &[Query],
    predictions: &Predictions,
) -> Result<SplitReport> {
    let progress = std::sync::Mutex::new(Progress::new(&format!("score {split}"), queries.len() as u64, 0));
    let scored: Vec<Result<Evaluated>> = queries
        .par_iter()
        .map(|query| {
            let evaluated = score_query(dataset, query, predictions)?;
            if let Ok(mut progress) = progress.lock() {
                progress.advance(1, "");
            }
            Ok(evaluated)
        })
        .collect();
    Ok(SplitReport::new(&scored.into_iter().collect::<Result<Vec<_>>>()?))
}

/// Measures the predicted mask of one expression.
///
/// # Errors
/// When the expression has no line, or a mask is malformed or of another size than the image.
pub fn score_query(dataset: &Dataset, query: &Query, predictions: &Predictions) -> Result<Evaluated> {
    let image = dataset.image_record(dataset.refs[query.ref_index].image_id)?;
    let mask = predictions.mask(key_of(dataset, query), image.width, image.height)?;
    Ok(measure_mask(dataset, query, mask)?)
}
