//! A page of the table of expressions, for browsing and comparing.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::{Value, json};

use super::Parameters;
use crate::failure::Answered;
use crate::filter::Filter;
use crate::sources::{Measure, Source};
use crate::state::Studio;

/// Rows of a page, and of the largest page.
const ROWS: usize = 48;
const MAX_ROWS: usize = 500;

pub(super) async fn rows(
    State(studio): State<Arc<Studio>>,
    Parameters(filter): Parameters<Filter>,
) -> Answered<Json<Value>> {
    let index = studio.catalog(filter.dataset.as_deref())?;
    let (catalog, sources) = (&studio.catalogs[index], studio.sources_of(index));
    let places = filter.places(catalog, &sources)?;
    let size = filter.size.unwrap_or(ROWS).clamp(1, MAX_ROWS);
    let shown = places.iter().skip(filter.page.saturating_mul(size)).take(size);
    let rows: Vec<Value> = shown
        .map(|&place| {
            let row = &catalog.rows[place];
            let reference = &catalog.dataset.refs[row.ref_index];
            let image = catalog.dataset.image_record(reference.image_id).ok();
            json!({
                "ref_id": row.key.0,
                "sent_id": row.key.1,
                "image_id": reference.image_id,
                "size": image.map(|image| [image.width, image.height]),
                "text": row.text,
                "split": reference.split,
                "category": row.category,
                "n_distractors": row.n_distractors,
                "place": row.has_position_word,
                "flavour": row.flavour,
                "area": catalog.area(row),
                "measures": sources.iter().map(|source| source.measure(place)).collect::<Vec<_>>(),
            })
        })
        .collect();
    let means: Vec<Means> = sources.iter().map(|source| Means::of(source, &places)).collect();
    let states: Vec<_> = sources.iter().map(|source| source.state()).collect();
    let name = catalog.name();
    Ok(Json(
        json!({"dataset": name, "total": places.len(), "size": size, "rows": rows, "sources": states, "means": means,
        "areas": catalog.has_areas()}),
    ))
}

/// A model's means over the rows that fit, each 0 to 1.
#[derive(Debug, Serialize)]
struct Means {
    /// Rows with a prediction.
    n: usize,
    miou: Option<f64>,
    /// Over rows with a distractor.
    nta: Option<f64>,
    identity_errors: Option<f64>,
}

impl Means {
    fn of(source: &Source, places: &[usize]) -> Self {
        let measures: Vec<Measure> = places.iter().filter_map(|&place| source.measure(place)).collect();
        let mean = |values: &mut dyn Iterator<Item = f64>| {
            let (sum, n) = values.fold((0.0, 0_usize), |(sum, n), value| (sum + value, n + 1));
            (n > 0).then(|| sum / n as f64)
        };
        let confusable = || measures.iter().filter(|measure| measure.has_distractors);
        Self {
            n: measures.len(),
            miou: mean(&mut measures.iter().map(|measure| f64::from(measure.iou))),
            nta: mean(&mut measures.iter().filter_map(|measure| measure.nta.map(f64::from))),
            identity_errors: mean(
                &mut confusable().map(|measure| f64::from(u8::from(measure.identity_error))),
            ),
        }
    }
}
