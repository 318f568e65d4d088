//! Metrics of predictions.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use command_kit::{measure_mask, measure_probabilities};
use metrics::{Evaluated, SplitReport};
use pyo3::exceptions::{PyFileNotFoundError, PyKeyError, PyOSError, PyValueError};
use pyo3::prelude::*;
use refcoco::Mask;
use refcoco::evaluation::{Query, queries};
use run_files::{PredictionLine, Predictions, key_of};
use serde::{Deserialize, Serialize};

use crate::arrays::{Plane, plane_argument};
use crate::dataset::Dataset;
use crate::errors::{data_error, detached, refused};

/// What is known about one expression.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Answer {
    evaluated: Evaluated,
    /// Line of `predictions.jsonl`.
    line: String,
}

impl Answer {
    fn new(dataset: &refcoco::Dataset, query: &Query, evaluated: Evaluated, mask: &Mask) -> Self {
        Self { evaluated, line: PredictionLine::new(key_of(dataset, query), mask).to_string() }
    }

    fn of_mask(dataset: &refcoco::Dataset, query: &Query, mask: Mask) -> refcoco::Result<Self> {
        let evaluated = measure_mask(dataset, query, mask.clone())?;
        Ok(Self::new(dataset, query, evaluated, &mask))
    }
}

/// Measures predictions for the expressions of a split, and reports all metrics: mIoU, oIoU, Pr@X, boxes (REC), non-target activation,
/// gRefCOCO's metrics, and all of them by group.
///
/// threshold: a probability above it is foreground; the official evaluation takes 0.35.
#[pyclass(frozen, weakref, module = "talent_ris")]
pub(crate) struct Evaluator {
    dataset: Py<Dataset>,
    split: String,
    threshold: f32,
    queries: Vec<Query>,
    /// Places of the queries by ref_id and sent_id.
    places: BTreeMap<(i64, i64), usize>,
    /// By place, so that the order of updates does not matter. Locked for moments: threads may update the same evaluator.
    answers: Mutex<BTreeMap<usize, Answer>>,
}

impl Evaluator {
    fn answers(&self) -> MutexGuard<'_, BTreeMap<usize, Answer>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, ref_id: i64, sent_id: i64) -> PyResult<usize> {
        self.places.get(&(ref_id, sent_id)).copied().ok_or_else(|| {
            let split = &self.split;
            PyKeyError::new_err(format!(
                "{split} has no expression with ref_id {ref_id} and sent_id {sent_id}"
            ))
        })
    }

    fn unanswered(&self, answers: &BTreeMap<usize, Answer>) -> Option<String> {
        let n = self.queries.len() - answers.len();
        let first = (0..self.queries.len()).find(|place| !answers.contains_key(place))?;
        let (ref_id, sent_id) = key_of(self.dataset.get().inner(), &self.queries[first]);
        let (split, all) = (&self.split, self.queries.len());
        Some(format!(
            "{n} of {all} expressions of {split} have no prediction, the first is ref_id {ref_id}, sent_id {sent_id}; \
             compute(partial=True) measures the others"
        ))
    }
}

/// What an evaluator is made from again when it is unpickled.
type Arguments<'a> = (Py<Dataset>, &'a str, f32);

/// A value as Python's objects.
fn python_of<'py>(py: Python<'py>, value: &impl Serialize) -> PyResult<Bound<'py, PyAny>> {
    let text = serde_json::to_string(value).map_err(refused)?;
    py.import("json")?.call_method1("loads", (text,))
}

#[pymethods]
impl Evaluator {
    #[new]
    #[pyo3(signature = (dataset, split = "val", threshold = 0.35))]
    fn new(dataset: &Bound<'_, Dataset>, split: &str, threshold: f32) -> PyResult<Self> {
        if !(0.0..1.0).contains(&threshold) {
            return Err(PyValueError::new_err(format!(
                "threshold must be from 0 to below 1, not {threshold}"
            )));
        }
        let inner = dataset.get().inner();
        let queries = queries(inner, split).map_err(data_error)?;
        let places = queries.iter().map(|query| key_of(inner, query)).zip(0..).collect();
        Ok(Self {
            dataset: dataset.clone().unbind(),
            split: split.to_owned(),
            threshold,
            queries,
            places,
            answers: Mutex::default(),
        })
    }

    fn __repr__(&self) -> String {
        format!("Evaluator({:?}): {} of {} expressions", self.split, self.answers().len(), self.queries.len())
    }

    /// Number of expressions with a prediction.
    fn __len__(&self) -> usize {
        self.answers().len()
    }

    /// (ref_id, sent_id, text) of every expression of the split.
    #[getter]
    fn expressions(&self) -> Vec<(i64, i64, &str)> {
        let inner = self.dataset.get().inner();
        let one = |query| {
            let (ref_id, sent_id) = key_of(inner, query);
            (ref_id, sent_id, query.text.as_str())
        };
        self.queries.iter().map(one).collect()
    }

    /// Measures the prediction for one expression; a second one for the same expression replaces the first.
    ///
    /// x: bool or uint8 [height, width] is a mask, floats are probabilities, in the pixels of the image; map_to_image brings
    /// probabilities over the network's square there.
    fn update(&self, py: Python<'_>, ref_id: i64, sent_id: i64, x: &Bound<'_, PyAny>) -> PyResult<()> {
        let place = self.place(ref_id, sent_id)?;
        let (query, threshold) = (&self.queries[place], self.threshold);
        let dataset = self.dataset.get().inner();
        let image = dataset.image_record(dataset.refs[query.ref_index].image_id).map_err(data_error)?;
        let plane = plane_argument("x", x)?;
        let (height, width) = match &plane {
            Plane::Mask(mask) => (mask.height, mask.width),
            Plane::Map { height, width, .. } => (*height, *width),
        };
        if (height, width) != (image.height, image.width) {
            return Err(PyValueError::new_err(format!(
                "x is [{height}, {width}], but the image of ref {ref_id} is [{}, {}]; map_to_image brings probabilities over the \
                 network's square there",
                image.height, image.width
            )));
        }
        if let Plane::Map { values, .. } = &plane
            && let Some(value) = values.iter().find(|value| !(-1.0..=2.0).contains(*value))
        {
            return Err(PyValueError::new_err(format!(
                "x holds {value}, which is no probability; apply the sigmoid"
            )));
        }
        let answer = detached(py, || match plane {
            Plane::Mask(mask) => Answer::of_mask(dataset, query, mask),
            Plane::Map { values, .. } => {
                let (evaluated, mask) = measure_probabilities(dataset, query, values, threshold)?;
                Ok(Answer::new(dataset, query, evaluated, &mask))
            }
        })?;
        self.answers().insert(place, answer.map_err(data_error)?);
        Ok(())
    }

    /// Adds what another evaluator of the same split has measured, for example in another process. Both may have an expression if they
    /// agree.
    fn merge(&self, other: &Self) -> PyResult<()> {
        let (mine, theirs) = (self.dataset.get(), other.dataset.get());
        let same = mine.inner().descriptor.name == theirs.inner().descriptor.name
            && self.split == other.split
            && self.threshold == other.threshold
            && self.queries == other.queries;
        if !same {
            return Err(PyValueError::new_err(
                "the other evaluator has another data set, split or threshold; both must be the same",
            ));
        }
        // Copied: the other one may be this one.
        let others = other.answers().clone();
        let mut answers = self.answers();
        if let Some((place, _)) =
            others.iter().find(|(place, answer)| answers.get(*place).is_some_and(|own| own != *answer))
        {
            let (ref_id, sent_id) = key_of(mine.inner(), &self.queries[*place]);
            return Err(PyValueError::new_err(format!(
                "both have a prediction for ref_id {ref_id}, sent_id {sent_id}, and they differ"
            )));
        }
        answers.extend(others);
        Ok(())
    }

    /// The report: a dict of all metrics in percent, with "groups".
    ///
    /// partial: measure what there is, even if expressions of the split have no prediction.
    #[pyo3(signature = (partial = false))]
    fn compute<'py>(&self, py: Python<'py>, partial: bool) -> PyResult<Bound<'py, PyAny>> {
        let answers = self.answers().clone();
        if answers.is_empty() && !self.queries.is_empty() {
            return Err(PyValueError::new_err(format!(
                "no expression of {} has a prediction yet",
                self.split
            )));
        }
        if let Some(what) = self.unanswered(&answers).filter(|_| !partial) {
            return Err(PyValueError::new_err(what));
        }
        let evaluated: Vec<Evaluated> = answers.into_values().map(|answer| answer.evaluated).collect();
        python_of(py, &SplitReport::new(&evaluated))
    }

    /// What was measured for each expression, as dicts: its text, IoU, counts of pixels, probability mass, distractors.
    fn records<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let record = |(place, answer): (&usize, &Answer)| {
            let mut record = serde_json::to_value(&answer.evaluated)?;
            record["text"] = self.queries[*place].text.as_str().into();
            record["iou"] = answer.evaluated.activation.overlap.iou().into();
            Ok(record)
        };
        let records: serde_json::Result<Vec<serde_json::Value>> = self.answers().iter().map(record).collect();
        python_of(py, &records.map_err(refused)?)
    }

    /// Reads masks from a file of predictions, one line per expression:
    /// {"ref_id": 1, "sent_id": 2, "segmentation": {"size": [h, w], "counts": "..."}}. Returns how many are of this split.
    fn read_predictions(&self, py: Python<'_>, path: PathBuf) -> PyResult<usize> {
        let dataset = self.dataset.get().inner();
        let queries = &self.queries;
        if !path.exists() {
            return Err(PyFileNotFoundError::new_err(format!("{}: there is no such file", path.display())));
        }
        let read = detached(py, || {
            use rayon::prelude::*;
            let predictions = Predictions::read(&path, dataset)?;
            let asked = (0..queries.len()).into_par_iter();
            let answered = asked.filter(|&place| predictions.contains(key_of(dataset, &queries[place])));
            let answer = |place: usize| {
                let query = &queries[place];
                let image = dataset.image_record(dataset.refs[query.ref_index].image_id)?;
                let mask = predictions.mask(key_of(dataset, query), image.width, image.height)?;
                Ok((place, Answer::of_mask(dataset, query, mask)?))
            };
            answered.map(answer).collect::<Result<Vec<_>, Box<dyn Error + Send + Sync>>>()
        })?;
        let read = read.map_err(refused)?;
        let n = read.len();
        self.answers().extend(read);
        Ok(n)
    }

    /// Writes the masks as a file that `read_predictions`, `cargo xtask eval --predictions` and the studio read.
    fn write_predictions(&self, path: PathBuf) -> PyResult<()> {
        let text: String = self.answers().values().map(|answer| format!("{}\n", answer.line)).collect();
        whole_file::write(&path, text.as_bytes()).map_err(|error| PyOSError::new_err(error.to_string()))
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Arguments<'_>, String)> {
        let held = self.answers();
        let answers: Vec<(usize, &Answer)> = held.iter().map(|(place, answer)| (*place, answer)).collect();
        let state = serde_json::to_string(&answers).map_err(refused)?;
        let arguments = (self.dataset.clone_ref(py), self.split.as_str(), self.threshold);
        Ok((py.get_type::<Self>().into_any(), arguments, state))
    }

    fn __setstate__(&self, state: &str) -> PyResult<()> {
        let answers: Vec<(usize, Answer)> = serde_json::from_str(state).map_err(refused)?;
        *self.answers() = answers.into_iter().filter(|(place, _)| *place < self.queries.len()).collect();
        Ok(())
    }
}
