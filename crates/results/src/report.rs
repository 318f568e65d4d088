use std::fmt::Write as _;
use std::path::Path;

use figures::{BarPanel, Bars, PAGE_STYLE, Panel, Series, chart_html, picture_html};

use crate::Error;
use crate::grid::grid;
use crate::plots::{differences, means};
use crate::read::{LeftOut, Run};
use crate::summary::Summary;

/// Writes one self-contained HTML file: tables of all splits, plots, the expressions on which the lines differ most, and a list
/// of what was left out.
///
/// - data_root: folder of the data sets, for their images
///
/// # Errors
/// When a plot or the file cannot be written.
pub fn report(
    path: &Path,
    title: &str,
    summaries: &[Summary],
    runs: &[Run],
    problems: &[LeftOut],
    data_root: &Path,
) -> Result<(), Error> {
    let mut page = String::new();
    let text = |text: &str| htmlize::escape_text(text).into_owned();
    let _ = write!(
        page,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{0}</title><style>{PAGE_STYLE}</style></head>\
         <body><h1>{0}</h1>",
        text(title)
    );
    if let Some(first) = summaries.first() {
        if first.baseline.is_some() {
            let svg = figures::dots_svg(&differences(summaries))?;
            page.push_str(&chart_html("differences to the baseline", &svg));
        }
        let _ = write!(page, "<p>{NOTE}</p>");
    }
    for summary in summaries {
        let _ = write!(page, "<h2>{}</h2>{}", text(&summary.split), summary.deciding_table().html());
        if let Some(power) = summary.power() {
            let _ = write!(page, "<p>{}.</p>", text(&power));
        }
        let _ = write!(
            page,
            "<details><summary>Other columns</summary>{}</details><details><summary>By group of expressions</summary>{}</details>",
            summary.other_table().html(),
            summary.groups_table().html()
        );
    }
    if let Some(first) = summaries.first() {
        let _ = write!(page, "<h2>Plots, {}</h2>", text(&first.split));
        let means = chart_html("means over seeds", &figures::dots_svg(&means(first))?);
        for plot in [means, by_distractors(first)?, curves(runs, first)?] {
            page.push_str(&plot);
        }
        let _ = write!(page, "<h2>Where they differ most, {}</h2>", text(&first.split));
        match grid(runs, first, data_root) {
            Ok(canvas) => page.push_str(&picture_html("predictions", &canvas)?),
            Err(why) => {
                let _ = write!(page, "<p>No pictures: {}.</p>", text(&why));
            }
        }
    }
    if !problems.is_empty() {
        page.push_str("<h2>Not in the tables</h2><ul>");
        for LeftOut { run, what } in problems {
            let _ =
                write!(page, "<li><code>{}</code>: {}</li>", text(&run.display().to_string()), text(what));
        }
        page.push_str("</ul>");
    }
    page.push_str("</body></html>\n");
    Ok(whole_file::write(path, page.as_bytes())?)
}

const NOTE: &str = "Values are means over seeds with their standard deviation. Differences are to the baseline with the same seed, \
expression by expression: mean and 95 % interval of a bootstrap over seeds and refs. Bold: better than every other row, where the \
interval of each difference excludes 0.";

fn by_distractors(summary: &Summary) -> Result<String, Error> {
    let panel = BarPanel {
        title: format!("NTA mass by number of distractors, {} (%)", summary.split),
        x_label: "same-category distractors".to_owned(),
        classes: ["1", "2", "3+"].map(str::to_owned).to_vec(),
        series: summary
            .lines
            .iter()
            .map(|line| Bars {
                name: line.group.clone(),
                values: line.nta_by_distractors.iter().map(|value| value.unwrap_or(f64::NAN)).collect(),
                deviations: vec![],
            })
            .collect(),
    };
    Ok(chart_html("NTA mass by number of distractors", &figures::bars_svg(&[panel])?))
}

/// Validation curves: the mean over each line's runs, at the steps they share.
fn curves(runs: &[Run], summary: &Summary) -> Result<String, Error> {
    let series = summary.lines.iter().map(|line| {
        let of_line: Vec<&Run> = runs.iter().filter(|run| run.row == line.group).collect();
        let first = of_line.first().map_or(&[][..], |run| run.val_curve.as_slice());
        let points = first.iter().filter_map(|&(step, _)| {
            let values =
                of_line.iter().map(|run| Some(run.val_curve.iter().find(|point| point.0 == step)?.1));
            let values = values.collect::<Option<Vec<f64>>>()?;
            Some((step, values.iter().sum::<f64>() / values.len() as f64))
        });
        Series { name: line.group.clone(), points: points.collect() }
    });
    let panel = Panel {
        title: "validation mIoU while training, mean over seeds (%)".to_owned(),
        x_label: "step".to_owned(),
        series: series.collect(),
    };
    Ok(chart_html("validation mIoU while training", &figures::curves_svg(&[panel])?))
}
