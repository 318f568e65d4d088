//! A run in pictures: curves from its records, a contact sheet from its predictions.

use std::path::Path;

use anyhow::Result;
use figures::{Canvas, Panel, Series, SheetRow};
use serde_json::Value;

use crate::evaluate::Prediction;

/// Draws loss terms and validation metrics over the steps.
pub(crate) fn draw_curves(path: &Path, records: &[Value]) -> Result<()> {
    let of_kind = |kind: &'static str| records.iter().filter(move |record| record["kind"] == kind);
    let steps: Vec<&Value> = of_kind("step").collect();
    let names: Vec<String> = steps
        .first()
        .and_then(|record| record["loss"].as_object())
        .map_or_else(Vec::new, |terms| terms.keys().cloned().collect());
    let loss = names.into_iter().map(|name| {
        let points = steps
            .iter()
            .filter_map(|record| Some((record["step"].as_f64()?, record["loss"][&name].as_f64()?)));
        Series { points: smooth(points.collect()), name }
    });
    let mut metrics: Vec<Series> = Vec::new();
    for record in of_kind("eval") {
        let Some(split) = record["split"].as_str() else { continue };
        for metric in ["mIoU", "oIoU", "Pr@50"] {
            let name = format!("{split} {metric}");
            let (Some(step), Some(value)) = (record["step"].as_f64(), record[metric].as_f64()) else {
                continue;
            };
            match metrics.iter_mut().find(|series| series.name == name) {
                Some(series) => series.points.push((step, value)),
                None => metrics.push(Series { name, points: vec![(step, value)] }),
            }
        }
    }
    let panels = [
        Panel { title: "training loss".into(), x_label: "step".into(), series: loss.collect() },
        Panel { title: "validation (%)".into(), x_label: "step".into(), series: metrics },
    ];
    Ok(figures::curves(path, &panels)?)
}

/// A running mean over a hundredth of the run, so that a curve shows its course.
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

/// Collects expressions for a contact sheet, spread evenly over a split.
#[derive(Debug)]
pub(crate) struct SheetCollector {
    every: usize,
    seen: usize,
    threshold: f32,
    rows: Vec<SheetRow>,
}

const ROWS: usize = 16;

impl SheetCollector {
    pub(crate) fn new(n_expressions: usize, threshold: f32) -> Self {
        Self { every: (n_expressions / ROWS).max(1), seen: 0, threshold, rows: Vec::new() }
    }

    pub(crate) fn visit(&mut self, prediction: &Prediction<'_>) {
        let wanted = self.seen.is_multiple_of(self.every) && self.rows.len() < ROWS;
        self.seen += 1;
        if !wanted {
            return;
        }
        let item = prediction.item;
        self.rows.push(SheetRow {
            picture: Canvas::from_rgb(item.image.width, item.image.height, item.image.data.clone()),
            expression: item.query.text.clone(),
            prediction: prediction.mask(self.threshold).data,
            target: item.target.data.clone(),
            iou: prediction.iou,
        });
    }

    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        Ok(figures::contact_sheet(&self.rows).save(path)?)
    }
}
