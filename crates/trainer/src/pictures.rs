//! Pictures of a run: curves from its records, and a contact sheet from its predictions.

use std::path::Path;

use anyhow::Result;
use cli_kit::errln;
use figures::{Canvas, Panel, Series, SheetRow, SheetVerdict};
use metrics::{Activation, METRICS};
use refcoco::Dataset;
use refcoco::evaluation::Query;
use run_files::Record;

use crate::distributed::Processes;
use crate::evaluate::{Prediction, merge_by_place};

/// Draws loss terms and validation metrics over the steps.
pub(crate) fn draw_curves(path: &Path, records: &[Record]) -> Result<()> {
    Ok(figures::curves(path, &curve_panels(records))?)
}

/// Loss terms, and validation metrics, over the steps.
pub(crate) fn curve_panels(records: &[Record]) -> [Panel; 2] {
    let (mut loss, mut metrics): (Vec<Series>, Vec<Series>) = Default::default();
    let add = |all: &mut Vec<Series>, name: &str, point: (f64, f64)| match all
        .iter_mut()
        .find(|series| series.name == name)
    {
        Some(series) => series.points.push(point),
        None => all.push(Series { name: name.to_owned(), points: vec![point] }),
    };
    for record in records {
        match record {
            Record::Step(step) => {
                let terms = step.loss.iter().filter_map(|(name, value)| Some((name, (*value)?)));
                terms.for_each(|(name, value)| add(&mut loss, name, (step.step as f64, value)));
            }
            Record::Eval(eval) => {
                for metric in METRICS.iter().filter(|metric| metric.while_training) {
                    if let Some(value) = (metric.of)(&eval.report.all) {
                        let name = format!("{} {}", eval.split, metric.heading);
                        add(&mut metrics, &name, (eval.step as f64, value));
                    }
                }
            }
            Record::Final(_) => {}
        }
    }
    let smoothed = |series: Series| Series { points: smooth(series.points), name: series.name };
    let loss = loss.into_iter().map(smoothed);
    [
        Panel { title: "training loss".into(), x_label: "step".into(), series: loss.collect() },
        Panel { title: "validation (%)".into(), x_label: "step".into(), series: metrics },
    ]
}

/// Means over chunks of a hundredth of the run, which show the trend of a noisy curve.
fn smooth(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let window = (points.len() / 100).max(1);
    let mean = |chunk: &[(f64, f64)]| {
        let n = chunk.len() as f64;
        (
            chunk.iter().map(|point| point.0).sum::<f64>() / n,
            chunk.iter().map(|point| point.1).sum::<f64>() / n,
        )
    };
    points.chunks(window).map(mean).collect()
}

/// What a prediction does with the distractors, if there are any.
pub(crate) fn verdict(activation: &Activation) -> Option<SheetVerdict> {
    match activation {
        _ if activation.distractors.is_empty() => None,
        _ if activation.is_identity_error() => Some(SheetVerdict::TakesAnother),
        _ if activation.covers_a_distractor() => Some(SheetVerdict::CoversAnother),
        _ => Some(SheetVerdict::TargetAlone),
    }
}

/// Collects expressions for a contact sheet, spread evenly over a split.
#[derive(Debug)]
pub(crate) struct SheetCollector {
    every: usize,
    threshold: f32,
    /// Place in the split, predicted foreground, and what it covers.
    found: Vec<(usize, (Vec<u8>, Activation))>,
}

const ROWS: usize = 16;

impl SheetCollector {
    pub(crate) fn new(n_expressions: usize, threshold: f32) -> Self {
        Self { every: (n_expressions / ROWS).max(1), threshold, found: Vec::new() }
    }

    fn wants(&self, place: usize) -> bool {
        place.is_multiple_of(self.every) && place / self.every < ROWS
    }

    pub(crate) fn visit(&mut self, place: usize, prediction: &Prediction<'_>) {
        if self.wants(place) {
            let mask = prediction.mask(self.threshold).data;
            self.found.push((place, (mask, prediction.activation.clone())));
        }
    }

    /// Adds the expressions of the other ranks.
    pub(crate) fn gather(self, processes: &Processes) -> Result<Self> {
        Ok(Self { found: merge_by_place(processes.gather(self.found)?), ..self })
    }

    /// - queries: of the split, in the order in which they were evaluated
    pub(crate) fn save(&self, path: &Path, dataset: &Dataset, queries: &[Query]) -> Result<()> {
        let row = |(place, (prediction, activation)): &(usize, (Vec<u8>, Activation))| -> Result<SheetRow> {
            let query = &queries[*place];
            let reference = &dataset.refs[query.ref_index];
            let image = dataset.image(reference.image_id)?;
            Ok(SheetRow {
                picture: Canvas::from_rgb(image.width, image.height, image.data),
                expression: query.text.clone(),
                prediction: prediction.clone(),
                target: dataset.target(reference)?.data,
                iou: activation.overlap.iou(),
                verdict: verdict(activation),
            })
        };
        let rows: Vec<SheetRow> = self.found.iter().map(row).collect::<Result<_>>()?;
        figures::contact_sheet(&rows).save(path)?;
        if let Some(note) = figures::missing_letters_note() {
            errln!("{}: {note}", path.display());
        }
        Ok(())
    }
}
