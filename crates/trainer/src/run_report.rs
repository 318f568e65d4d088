//! `report.html` of a run: one file with curves, tables, groups of expressions, and its best and worst predictions.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use command_kit::{curve_panels, metric_or_dash, verdict};
use figures::{
    BarPanel, Bars, Canvas, PAGE_STYLE, SheetRow, bars_svg, chart_html, contact_sheet, curves_svg,
    picture_html,
};
use htmlize::escape_text;
use metrics::{Evaluated, GroupReport, METRICS, SplitReport};
use refcoco::Dataset;
use refcoco::evaluation::Query;
use run_files::{Key, Predictions, Record, key_of};

/// What a report shows.
pub(crate) struct RunReport<'a> {
    /// Name of the run's folder, without the folders above it: the page may be passed on.
    pub(crate) name: &'a str,
    pub(crate) records: &'a [Record],
    /// Reports by split, in the order of the table.
    pub(crate) rows: &'a [(String, SplitReport)],
    /// Best and worst predictions of the first split, if there are any.
    pub(crate) cases: Option<[Canvas; 2]>,
}

impl RunReport<'_> {
    /// Writes the page.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let name = escape_text(self.name);
        let mut page = format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
             content=\"width=device-width\"><title>{name}</title><style>{PAGE_STYLE}</style></head><body><h1>{name}</h1>"
        );
        page.push_str(&chart_html(
            "loss and validation metrics while training",
            &curves_svg(&curve_panels(self.records))?,
        ));
        let rows: Vec<(&str, &GroupReport)> =
            self.rows.iter().map(|(split, report)| (split.as_str(), &report.all)).collect();
        let _ = write!(page, "<h2>Best model, percent</h2>{}", table("split", &rows));
        page.push_str(&chart_html("NTA mass by number of distractors", &self.by_distractors()?));
        for (split, report) in self.rows.iter().filter(|(split, _)| !split.contains(", ")) {
            let rows: Vec<(&str, &GroupReport)> =
                report.groups.iter().map(|(group, report)| (group.as_str(), report)).collect();
            if !rows.is_empty() {
                let _ = write!(
                    page,
                    "<details><summary>{}, by group of expressions</summary>{}</details>",
                    escape_text(split),
                    table("group", &rows)
                );
            }
        }
        for (title, sheet) in
            ["Best predictions", "Worst predictions"].iter().zip(self.cases.iter().flatten())
        {
            let _ = write!(page, "<h2>{title}</h2>{}", picture_html(title, sheet)?);
        }
        page.push_str("</body></html>\n");
        Ok(whole_file::write(path, page.as_bytes())?)
    }

    fn by_distractors(&self) -> Result<String> {
        let series = self.rows.iter().filter(|(split, _)| !split.contains(", ")).map(|(split, report)| {
            let value = |n: &&str| {
                let group = report.groups.get(&format!("distractors {n}"));
                group.and_then(|group| group.nta.nta_mass).unwrap_or(f64::NAN)
            };
            Bars { name: split.clone(), values: DISTRACTORS.iter().map(value).collect(), deviations: vec![] }
        });
        let mut series: Vec<Bars> = series.collect();
        // A number that no expression has would look like an NTA mass of 0.
        let is_there = |place: &usize| series.iter().any(|bars| bars.values[*place].is_finite());
        let shown: Vec<usize> = (0..DISTRACTORS.len()).filter(is_there).collect();
        for bars in &mut series {
            bars.values = shown.iter().map(|&place| bars.values[place]).collect();
        }
        let panel = BarPanel {
            title: "NTA mass by number of distractors (%)".into(),
            x_label: "same-category distractors".into(),
            classes: shown.into_iter().map(|place| DISTRACTORS[place].to_owned()).collect(),
            series,
        };
        Ok(bars_svg(&[panel])?)
    }
}

const DISTRACTORS: [&str; 3] = ["1", "2", "3+"];

/// A table of every metric.
fn table(heading: &str, rows: &[(&str, &GroupReport)]) -> String {
    let mut html = format!("<table><tr><th>{heading}</th>");
    html.extend(METRICS.iter().map(|metric| format!("<th>{}</th>", escape_text(metric.heading))));
    html.push_str("<th>expressions</th></tr>");
    for (name, report) in rows {
        let _ = write!(html, "<tr><td>{}</td>", escape_text(*name));
        html.extend(METRICS.iter().map(|metric| format!("<td>{}</td>", metric_or_dash((metric.of)(report)))));
        let _ = write!(html, "<td>{}</td></tr>", report.segmentation.n_expressions);
    }
    html.push_str("</table>");
    html
}

/// Number of best and of worst predictions.
const CASES: usize = 8;

/// Contact sheets of the predictions with the highest and the lowest IoU, one an image.
///
/// - predictions: masks of these expressions
pub(crate) fn best_and_worst(
    dataset: &Dataset,
    queries: &[Query],
    evaluated: &[Evaluated],
    predictions: &Predictions,
) -> Result<[Canvas; 2]> {
    let of_key: BTreeMap<Key, &Query> = queries.iter().map(|query| (key_of(dataset, query), query)).collect();
    let mut sorted: Vec<&Evaluated> = evaluated.iter().collect();
    sorted.sort_by(|a, b| b.activation.overlap.iou().total_cmp(&a.activation.overlap.iou()));
    let sheet = |cases: &mut dyn Iterator<Item = &Evaluated>| -> Result<Canvas> {
        let (mut images, mut rows) = (std::collections::BTreeSet::new(), Vec::new());
        for case in cases {
            let key = (case.ref_id, case.sent_id);
            let Some(query) = of_key.get(&key) else { continue };
            let reference = &dataset.refs[query.ref_index];
            if rows.len() == CASES || !images.insert(reference.image_id) {
                continue;
            }
            let image = dataset.image(reference.image_id)?;
            rows.push(SheetRow {
                prediction: predictions.mask(key, image.width, image.height)?.data,
                picture: Canvas::from_rgb(image.width, image.height, image.data),
                expression: query.text.clone(),
                target: dataset.target(reference)?.data,
                iou: case.activation.overlap.iou(),
                verdict: verdict(&case.activation),
            });
        }
        Ok(contact_sheet(&rows))
    };
    Ok([sheet(&mut sorted.iter().copied())?, sheet(&mut sorted.iter().rev().copied())?])
}
