use std::fmt::Write as _;
use std::path::Path;

use base64::Engine;
use figures::{BarPanel, Bars, Panel, Series};

use crate::grid::grid;
use crate::read::{LeftOut, Run};
use crate::summary::{Line, Summary};
use crate::{Error, io_error};

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
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{0}</title><style>{STYLE}</style></head>\
         <body><h1>{0}</h1>",
        text(title)
    );
    for summary in summaries {
        let _ = write!(page, "<h2>{}</h2>{}", text(&summary.split), summary.table().html());
        let baseline = summary.baseline.as_deref();
        if let Some(baseline) = baseline {
            let _ = write!(
                page,
                "<p>Differences are to <b>{}</b> with the same seed, expression by expression: mean and 95 % interval of a \
                 bootstrap over expressions.</p>",
                text(baseline)
            );
        }
    }
    if let Some(first) = summaries.first() {
        for (name, image) in [("metrics", bars(first)?), ("curves", curves(runs, first)?)] {
            picture(&mut page, name, &image);
        }
        let _ = write!(page, "<h2>Where they differ most, {}</h2>", text(&first.split));
        match grid(runs, first, data_root) {
            Ok(canvas) => picture(&mut page, "predictions", &encoded(|path| canvas.save(path))?),
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

fn picture(page: &mut String, name: &str, image: &str) {
    let _ = write!(page, "<img alt=\"{name}\" src=\"data:image/png;base64,{image}\">");
}

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:1300px;padding:0 1em;color:#222}\
table{border-collapse:collapse;display:block;overflow-x:auto}td,th{padding:.3em .7em;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}\
td:first-child,th:first-child{text-align:left}img{max-width:100%;display:block;margin:1em 0}";

fn bars(summary: &Summary) -> Result<String, Error> {
    let groups: Vec<String> = summary.lines.iter().map(|line| line.group.clone()).collect();
    let one = |title: &str, metric: &str| {
        let of = |line: &Line| line.metrics.get(metric).copied();
        let means = summary.lines.iter().map(|line| of(line).map_or(f64::NAN, |value| value.mean));
        let deviations = summary.lines.iter().map(|line| of(line).and_then(|value| value.sd).unwrap_or(0.0));
        let bars = Bars { name: title.to_owned(), values: means.collect(), deviations: deviations.collect() };
        BarPanel {
            title: format!("{title}, {} (%)", summary.split),
            x_label: "mean and standard deviation over seeds; the axis does not start at 0".to_owned(),
            from: axis_start(&bars),
            classes: groups.clone(),
            series: vec![bars],
        }
    };
    let by_distractors = BarPanel {
        title: format!("NTA mass by number of distractors, {} (%)", summary.split),
        x_label: "same-category distractors".to_owned(),
        from: 0.0,
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
    encoded(|path| figures::bars(path, &[one("mIoU", "mIoU"), one("NTA mass", "nta_mass"), by_distractors]))
}

/// Start of the y axis, such that the differences between bars fill about half of the panel.
fn axis_start(bars: &Bars) -> f64 {
    let ends = |sign: f64| bars.values.iter().zip(&bars.deviations).map(move |(value, sd)| value + sign * sd);
    let finite = |value: &f64| value.is_finite();
    let (low, high) =
        (ends(-1.0).filter(finite).fold(f64::MAX, f64::min), ends(1.0).filter(finite).fold(0.0, f64::max));
    (low - (high - low).max(0.5)).floor().max(0.0)
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
    encoded(|path| figures::curves(path, &[panel]))
}

/// Draws a picture, and returns it as base64.
fn encoded(draw: impl FnOnce(&Path) -> Result<(), figures::Error>) -> Result<String, Error> {
    let folder = tempfile::tempdir().map_err(io_error(Path::new("temporary folder")))?;
    let path = folder.path().join("plot.png");
    draw(&path)?;
    let bytes = std::fs::read(&path).map_err(io_error(&path))?;
    Ok(base64::engine::general_purpose::STANDARD.encode(bytes))
}
