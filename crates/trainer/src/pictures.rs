//! Pictures of a run: curves from its records, and a contact sheet from its predictions.

use std::path::Path;

use anyhow::Result;
use cli_kit::errln;
use command_kit::{curve_panels, verdict};
use figures::{Canvas, SheetRow};
use metrics::Activation;
use refcoco::Dataset;
use refcoco::evaluation::Query;
use run_files::Record;

use crate::distributed::Processes;
use crate::evaluate::{Prediction, merge_by_place};

/// Draws loss terms and validation metrics over the steps.
pub(crate) fn draw_curves(path: &Path, records: &[Record]) -> Result<()> {
    Ok(figures::curves(path, &curve_panels(records))?)
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
