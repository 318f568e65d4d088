//! Predictions to compare: those of runs and of files. What they cover is measured in the background.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use command_kit::{one_line, score_query};
use metrics::Evaluated;
use rayon::prelude::*;
use refcoco::Mask;
use refcoco::evaluation::Query;
use run_files::{Key, Predictions, read_expressions};
use serde::Serialize;

use crate::catalog::Catalog;

/// What a prediction covers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Measure {
    /// IoU with the target, 0 to 1.
    pub(crate) iou: f32,
    /// NTA mass, 0 to 1; `None` without any mass on objects of the category.
    pub(crate) nta: Option<f32>,
    /// Whether some distractor fits better than the target.
    pub(crate) identity_error: bool,
    /// Whether there is a distractor at all.
    pub(crate) has_distractors: bool,
}

impl From<&Evaluated> for Measure {
    fn from(evaluated: &Evaluated) -> Self {
        let activation = &evaluated.activation;
        let has_distractors = !activation.distractors.is_empty();
        Self {
            iou: activation.overlap.iou() as f32,
            nta: activation.nta_mass().filter(|_| has_distractors).map(|mass| mass as f32),
            identity_error: activation.is_identity_error(),
            has_distractors,
        }
    }
}

/// Predictions about one data set.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) name: String,
    /// Index of the catalog.
    pub(crate) catalog: usize,
    /// Predicted masks, if there are any.
    masks: Option<Predictions>,
    /// A run's folder, whose measurements are read in place of measuring.
    run: Option<PathBuf>,
    /// By row of the catalog; unset is "not measured yet", `None` "not predicted".
    measures: Vec<OnceLock<Option<Measure>>>,
    n_done: AtomicUsize,
    /// Why some cannot be measured.
    problem: OnceLock<String>,
}

/// How far measuring is.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct State {
    name: String,
    done: usize,
    total: usize,
    problem: Option<String>,
    /// Whether it has masks that can be shown.
    masks: bool,
    /// Whether the NTA mass is that of probabilities, as runs measure it, and not of masks.
    of_probabilities: bool,
}

impl Source {
    /// A file of predicted masks.
    pub(crate) fn file(name: String, index: usize, catalog: &Catalog, path: &Path) -> Result<Self> {
        let masks = Some(Predictions::read(path, &catalog.dataset)?);
        Ok(Self { masks, ..Self::empty(name, index, catalog) })
    }

    /// A finished run. Its masks are optional.
    pub(crate) fn run(name: String, index: usize, catalog: &Catalog, folder: &Path) -> Self {
        let path = folder.join("predictions.jsonl");
        let mut source = Self { run: Some(folder.to_path_buf()), ..Self::empty(name, index, catalog) };
        if path.is_file() {
            // Without its masks a run still has its measurements.
            match Predictions::read_matching(&path, &catalog.dataset) {
                Ok(masks) => source.masks = Some(masks),
                Err(error) => source.note(&error.into()),
            }
        }
        source
    }

    fn empty(name: String, catalog: usize, of: &Catalog) -> Self {
        let measures = (0..of.rows.len()).map(|_| OnceLock::new()).collect();
        let (n_done, problem) = Default::default();
        Self { name, catalog, masks: None, run: None, measures, n_done, problem }
    }

    pub(crate) fn state(&self) -> State {
        let (name, problem) = (self.name.clone(), self.problem.get().cloned());
        State {
            name,
            done: self.n_done.load(Ordering::Relaxed),
            total: self.measures.len(),
            problem,
            masks: self.masks.is_some(),
            of_probabilities: self.run.is_some(),
        }
    }

    /// The measurement of a row; `None` if it is not there (yet).
    pub(crate) fn measure(&self, row: usize) -> Option<Measure> {
        *self.measures.get(row)?.get()?
    }

    /// Whether there is a predicted mask for an expression.
    pub(crate) fn has_mask(&self, key: Key) -> bool {
        self.masks.as_ref().is_some_and(|masks| masks.contains(key))
    }

    /// The predicted mask of a row.
    pub(crate) fn mask(&self, catalog: &Catalog, row: usize) -> Result<Option<Mask>> {
        let row = &catalog.rows[row];
        let Some(masks) = self.masks.as_ref().filter(|masks| masks.contains(row.key)) else {
            return Ok(None);
        };
        let image = catalog.dataset.image_record(catalog.dataset.refs[row.ref_index].image_id)?;
        Ok(Some(masks.mask(row.key, image.width, image.height)?))
    }

    /// Measures every prediction, or reads the measurements.
    pub(crate) fn measure_all(&self, catalog: &Catalog) {
        if let Some(folder) = &self.run {
            match read_expressions(folder) {
                Ok(lines) => {
                    for line in lines {
                        let evaluated = &line.evaluated;
                        if let Some(place) = catalog.place((evaluated.ref_id, evaluated.sent_id)) {
                            self.set(place, Some(evaluated.into()));
                        }
                    }
                }
                Err(error) => self.note(&error.into()),
            }
        }
        let todo: Vec<usize> =
            (0..self.measures.len()).filter(|&row| self.measures[row].get().is_none()).collect();
        todo.into_par_iter().for_each(|row| {
            let measured = self.measure_one(catalog, row);
            self.set(
                row,
                measured.unwrap_or_else(|error| {
                    self.note(&error);
                    None
                }),
            );
        });
    }

    fn measure_one(&self, catalog: &Catalog, place: usize) -> Result<Option<Measure>> {
        let row = &catalog.rows[place];
        let Some(masks) = self.masks.as_ref().filter(|masks| masks.contains(row.key)) else {
            return Ok(None);
        };
        let query = Query { ref_index: row.ref_index, sent_id: row.key.1, text: row.text.clone() };
        let evaluated = score_query(&catalog.dataset, &query, masks).with_context(|| self.name.clone())?;
        Ok(Some((&evaluated).into()))
    }

    fn set(&self, row: usize, measure: Option<Measure>) {
        if self.measures[row].set(measure).is_ok() {
            self.n_done.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes the first problem.
    fn note(&self, error: &anyhow::Error) {
        let _ = self.problem.set(one_line(error));
    }
}
