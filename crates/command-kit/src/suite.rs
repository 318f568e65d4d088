//! Metrics of one file of predicted masks on several data sets.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use cli_kit::outln;
use metrics::{METRICS, SplitReport};
use refcoco::Descriptor;
use run_files::Predictions;
use serde_json::{Value, json};

use crate::data_root::open;
use crate::left_out::leave_out_unreadable;
use crate::metrics_table::{metric_or_dash, metrics_table};
use crate::score::{reports_json, score_split};

/// Suites by name, with the data sets that each is made of.
const SUITES: [(&str, &[&str]); 1] = [(
    "robustness",
    &["refcoco", "refcoco_m", "refcocog_u", "arefcoco", "grefcoco", "reasonseg", "d3", "rrsisd", "refsegrs"],
)];

/// What a suite's scoring is about.
pub(crate) struct Suite<'a> {
    /// A JSONL file, or a folder with one `NAME.jsonl` a data set.
    pub(crate) predictions: &'a Path,
    /// Name of a suite, or names of data sets separated by commas.
    pub(crate) name: &'a str,
    pub(crate) data_root: &'a Path,
    /// Whether expressions whose image or target cannot be read are left out.
    pub(crate) skip_unreadable: bool,
}

/// Reports by data set and split, and what could not be scored.
#[derive(Default)]
pub(crate) struct SuiteReport {
    rows: Vec<(String, SplitReport)>,
    missing: Vec<Missing>,
}

struct Missing {
    what: String,
    why: String,
}

impl Suite<'_> {
    /// The data sets of the suite.
    fn datasets(&self) -> Result<Vec<&str>> {
        if let Some((_, names)) = SUITES.iter().find(|(name, _)| *name == self.name) {
            return Ok(names.to_vec());
        }
        let names: Vec<&str> = self.name.split(',').map(str::trim).collect();
        for name in &names {
            if Descriptor::find(name, self.data_root).is_err() {
                let suites: Vec<&str> = SUITES.iter().map(|(name, _)| *name).collect();
                bail!(
                    "--suite {}: `{name}` is neither a suite ({}) nor a data set",
                    self.name,
                    suites.join(", ")
                );
            }
        }
        Ok(names)
    }

    /// Scores every evaluated split of every data set that is below the data root and has predictions.
    ///
    /// # Errors
    /// When the predictions cannot be read, or when nothing at all can be scored.
    pub(crate) fn score(&self) -> Result<SuiteReport> {
        ensure!(
            self.predictions.exists(),
            "{}: there is no such file or folder of predictions",
            self.predictions.display()
        );
        let mut report = SuiteReport::default();
        for name in self.datasets()? {
            if let Err(error) = self.score_dataset(name, &mut report) {
                report.missing.push(Missing { what: name.to_owned(), why: format!("{error:#}") });
            }
        }
        if report.rows.is_empty() {
            let reasons = report.missing.iter().map(|Missing { what, why }| format!("\n  {what}: {why}"));
            bail!("--suite {}: nothing can be scored:{}", self.name, reasons.collect::<String>());
        }
        Ok(report)
    }

    fn score_dataset(&self, name: &str, report: &mut SuiteReport) -> Result<()> {
        let mut dataset = open(name, self.data_root)?;
        if self.skip_unreadable {
            let splits = dataset.evaluated_splits();
            leave_out_unreadable(&mut dataset, &splits)?;
        }
        let path = self.file_of(name);
        ensure!(path.is_file(), "{}: there are no predictions for it", path.display());
        let predictions = Predictions::read_matching(&path, &dataset)?;
        for split in dataset.evaluated_splits() {
            let row = format!("{name} {split}");
            match score_split(&dataset, &split, &predictions, &path) {
                Ok(scored) => report.rows.push((row, scored)),
                Err(error) => report.missing.push(Missing { what: row, why: format!("{error:#}") }),
            }
        }
        Ok(())
    }

    fn file_of(&self, name: &str) -> PathBuf {
        match self.predictions.is_dir() {
            true => self.predictions.join(format!("{name}.jsonl")),
            false => self.predictions.to_path_buf(),
        }
    }
}

impl SuiteReport {
    /// The reports, then their groups, then what is missing.
    pub(crate) fn print(&self) {
        outln!("{}", metrics_table(&self.rows));
        let groups: Vec<(String, SplitReport)> = self
            .rows
            .iter()
            .flat_map(|(name, report)| {
                report.groups.iter().map(move |(group, found)| {
                    (
                        format!("{name}, {group}"),
                        SplitReport { all: *found, generalized: None, groups: BTreeMap::new() },
                    )
                })
            })
            .collect();
        if !groups.is_empty() {
            outln!("\nBy group:\n{}", metrics_table(&groups));
        }
        if !self.missing.is_empty() {
            outln!("\nNot scored:");
        }
        for Missing { what, why } in &self.missing {
            outln!("  {what}: {why}");
        }
    }

    /// `{"suite", "predictions", "splits": {"NAME SPLIT": REPORT}, "missing": [{"data_set", "why"}]}`.
    ///
    /// # Errors
    /// When a number cannot be written as JSON.
    pub(crate) fn json(self, suite: &Suite<'_>) -> Result<Value> {
        let missing: Vec<Value> =
            self.missing.iter().map(|Missing { what, why }| json!({"data_set": what, "why": why})).collect();
        let head = json!({
            "suite": suite.name,
            "predictions": suite.predictions.to_string_lossy(),
            "missing": missing,
        });
        reports_json(&head, self.rows)
    }

    /// One self-contained HTML page.
    pub(crate) fn html(&self, suite: &Suite<'_>) -> String {
        let headings: String =
            METRICS.iter().map(|metric| format!("<th>{}</th>", escaped(metric.heading))).collect();
        let row = |class: &str, name: &str, group: &metrics::GroupReport| {
            let cells =
                METRICS.iter().map(|metric| format!("<td>{}</td>", metric_or_dash((metric.of)(group))));
            format!(
                "<tr class=\"{class}\"><th>{}</th>{}<td>{}</td></tr>\n",
                escaped(name),
                cells.collect::<String>(),
                group.segmentation.n_expressions
            )
        };
        let mut body = String::new();
        for (name, report) in &self.rows {
            body += &row("split", name, &report.all);
            body.extend(report.groups.iter().map(|(group, found)| row("group", group, found)));
        }
        let missing: String = self
            .missing
            .iter()
            .map(|Missing { what, why }| format!("<li>{}: {}</li>\n", escaped(what), escaped(why)))
            .collect();
        let missing =
            if missing.is_empty() { missing } else { format!("<h2>Not scored</h2><ul>{missing}</ul>") };
        format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title><style>{STYLE}</style>\n\
             <h1>{title}</h1>\n<p>Predictions: {path}. In percent. NTA: over expressions whose target has a same-category \
             distractor.</p>\n<table><thead><tr><th></th>{headings}<th>expressions</th></tr></thead>\n<tbody>\n{body}</tbody>\
             </table>\n{missing}</html>\n",
            title = escaped(&format!("Suite {}", suite.name)),
            path = escaped(&suite.predictions.to_string_lossy()),
        )
    }
}

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;margin:2em}table{border-collapse:collapse}\
td,th{padding:.2em .7em;text-align:right}th:first-child{text-align:left}.split{border-top:1px solid #bbb;font-weight:600}\
.group{color:#555}.group th{font-weight:400;padding-left:2em}";

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
