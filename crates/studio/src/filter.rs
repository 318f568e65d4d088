//! Which rows are asked for, and in what order.

use serde::Deserialize;

use crate::catalog::{Catalog, Row};
use crate::failure::{Answered, Failure};
use crate::sources::Source;

/// Conditions on rows; all of those given must hold.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Filter {
    pub(crate) dataset: Option<String>,
    split: Option<String>,
    /// Part of the expression, in any case of letters.
    text: Option<String>,
    category: Option<String>,
    flavour: Option<String>,
    /// `yes` or `no`: words of place.
    place: Option<String>,
    distractors_min: Option<usize>,
    distractors_max: Option<usize>,
    /// Percent of the picture.
    area_min: Option<f32>,
    area_max: Option<f32>,
    /// Name of the source that the following are about; any source without it.
    source: Option<String>,
    /// `yes`: predicted; `masks`: with a predicted mask that can be shown.
    predicted: Option<String>,
    /// Percent.
    iou_min: Option<f32>,
    iou_max: Option<f32>,
    /// Percent.
    nta_min: Option<f32>,
    nta_max: Option<f32>,
    /// `yes` or `no`.
    identity: Option<String>,
    /// `order` (of the data set), `iou`, `nta`, `gap` (largest difference in IoU between two sources) or `area`.
    sort: Option<String>,
    /// Largest first.
    desc: bool,
    pub(crate) page: usize,
    pub(crate) size: Option<usize>,
}

fn yes_or_no(name: &str, value: Option<&str>) -> Answered<Option<bool>> {
    match value {
        None | Some("") => Ok(None),
        Some("yes") => Ok(Some(true)),
        Some("no") => Ok(Some(false)),
        Some(other) => Err(Failure::bad(format!("`{name}` must be yes or no, not `{other}`"))),
    }
}

/// A value that is given and not empty.
fn given(value: Option<&String>) -> Option<&str> {
    value.map(String::as_str).filter(|text| !text.is_empty())
}

impl Filter {
    /// Places of the rows that fit, in the order asked for. Rows without a value to sort by come last.
    pub(crate) fn places(&self, catalog: &Catalog, sources: &[&Source]) -> Answered<Vec<usize>> {
        let fits = self.conditions(catalog, sources)?;
        let mut places: Vec<usize> = (0..catalog.rows.len()).filter(|&place| fits(place)).collect();
        let chosen = self.chosen(sources)?;
        let value = |place: usize| -> Option<f32> {
            let of = |measure: fn(&crate::sources::Measure) -> Option<f32>| {
                let values = chosen.iter().filter_map(|source| measure(&source.measure(place)?));
                mean(values)
            };
            match self.sort.as_deref() {
                Some("iou") => of(|measure| Some(measure.iou)),
                Some("nta") => of(|measure| measure.nta),
                Some("gap") => gap(sources, place),
                Some("area") => catalog.area(&catalog.rows[place]),
                _ => None,
            }
        };
        match self.sort.as_deref() {
            None | Some("" | "order") => {
                if self.desc {
                    places.reverse();
                }
            }
            Some("iou" | "nta" | "gap" | "area") => {
                let mut keyed: Vec<(Option<f32>, usize)> =
                    places.iter().map(|&place| (value(place), place)).collect();
                keyed.sort_by(|(a, _), (b, _)| match (a, b) {
                    (Some(a), Some(b)) if self.desc => b.total_cmp(a),
                    (Some(a), Some(b)) => a.total_cmp(b),
                    _ => b.is_some().cmp(&a.is_some()),
                });
                places = keyed.into_iter().map(|(_, place)| place).collect();
            }
            Some(other) => {
                return Err(Failure::bad(format!(
                    "`sort` must be order, iou, nta, gap or area, not `{other}`"
                )));
            }
        }
        Ok(places)
    }

    /// The sources that conditions on predictions are about.
    fn chosen<'a>(&self, sources: &[&'a Source]) -> Answered<Vec<&'a Source>> {
        let Some(name) = given(self.source.as_ref()) else { return Ok(sources.to_vec()) };
        match sources.iter().find(|source| source.name == name) {
            Some(source) => Ok(vec![source]),
            None => Err(Failure::bad(format!("there are no predictions named `{name}` here"))),
        }
    }

    fn conditions<'a>(
        &'a self,
        catalog: &'a Catalog,
        sources: &[&'a Source],
    ) -> Answered<impl Fn(usize) -> bool + 'a> {
        let bounds = [self.area_min, self.area_max, self.iou_min, self.iou_max, self.nta_min, self.nta_max];
        if bounds.iter().flatten().any(|bound| !bound.is_finite()) {
            return Err(Failure::bad("a bound must be a finite number"));
        }
        let place_words = yes_or_no("place", self.place.as_deref())?;
        let identity = yes_or_no("identity", self.identity.as_deref())?;
        let text = self.text.as_ref().map(|text| text.trim().to_lowercase()).unwrap_or_default();
        let chosen = self.chosen(sources)?;
        let about_predictions = identity.is_some()
            || given(self.predicted.as_ref()).is_some()
            || [self.iou_min, self.iou_max, self.nta_min, self.nta_max].iter().any(Option::is_some);
        let of_row = move |row: &Row| {
            let is =
                |wanted: Option<&String>, value: &str| given(wanted).is_none_or(|wanted| wanted == value);
            let area = || catalog.area(row).map(|share| 100.0 * share);
            is(self.split.as_ref(), catalog.split(row))
                && row.holds(&text)
                && is(self.category.as_ref(), &row.category)
                && is(self.flavour.as_ref(), row.flavour.as_deref().unwrap_or_default())
                && place_words.is_none_or(|wanted| wanted == row.has_position_word)
                && self.distractors_min.is_none_or(|n| row.n_distractors >= n)
                && self.distractors_max.is_none_or(|n| row.n_distractors <= n)
                && self.area_min.is_none_or(|least| area().is_some_and(|area| area >= least))
                && self.area_max.is_none_or(|most| area().is_some_and(|area| area <= most))
        };
        let needs_mask = match given(self.predicted.as_ref()) {
            None | Some("yes") => false,
            Some("masks") => true,
            Some(other) => {
                return Err(Failure::bad(format!("`predicted` must be yes or masks, not `{other}`")));
            }
        };
        let split = given(self.split.as_ref());
        if let Some(split) = split.filter(|split| !catalog.dataset.splits().contains(split)) {
            return Err(Failure::bad(format!("{} has no split `{split}`", catalog.name())));
        }
        let of_source = move |source: &Source, place: usize| {
            if needs_mask && !source.has_mask(catalog.rows[place].key) {
                return false;
            }
            let Some(measure) = source.measure(place) else { return false };
            let nta = || measure.nta.map(|mass| 100.0 * mass);
            self.iou_min.is_none_or(|least| 100.0 * measure.iou >= least)
                && self.iou_max.is_none_or(|most| 100.0 * measure.iou <= most)
                && self.nta_min.is_none_or(|least| nta().is_some_and(|mass| mass >= least))
                && self.nta_max.is_none_or(|most| nta().is_some_and(|mass| mass <= most))
                && identity.is_none_or(|wanted| wanted == measure.identity_error)
        };
        Ok(move |place: usize| {
            of_row(&catalog.rows[place])
                && (!about_predictions || chosen.iter().any(|source| of_source(source, place)))
        })
    }
}

fn mean(values: impl Iterator<Item = f32>) -> Option<f32> {
    let (sum, n) = values.fold((0.0, 0), |(sum, n), value| (sum + value, n + 1));
    (n > 0).then(|| sum / n as f32)
}

/// The largest difference in IoU between two sources.
fn gap(sources: &[&Source], place: usize) -> Option<f32> {
    let values: Vec<f32> = sources.iter().filter_map(|source| Some(source.measure(place)?.iou)).collect();
    let (low, high) = (values.iter().copied().reduce(f32::min)?, values.iter().copied().reduce(f32::max)?);
    (values.len() > 1).then_some(high - low)
}
