//! One expression: its target, the distractors, and every source's mask.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use command_kit::one_line;
use refcoco::Mask;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Parameters, on_pixels};
use crate::failure::{Answered, Failure};
use crate::state::Studio;

#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    dataset: Option<String>,
    ref_id: i64,
    sent_id: i64,
}

pub(super) async fn expression(
    State(studio): State<Arc<Studio>>,
    Parameters(asked): Parameters<Asked>,
) -> Answered<Json<Value>> {
    let index = studio.catalog(asked.dataset.as_deref())?;
    let place = studio.catalogs[index].place((asked.ref_id, asked.sent_id));
    let place = place.ok_or_else(|| {
        Failure::missing(format!("no expression has ref_id {} and sent_id {}", asked.ref_id, asked.sent_id))
    })?;
    let shared = Arc::clone(&studio);
    Ok(Json(on_pixels(&studio, move || describe(&shared, index, place)).await?))
}

fn describe(studio: &Studio, index: usize, place: usize) -> anyhow::Result<Value> {
    let catalog = &studio.catalogs[index];
    let row = &catalog.rows[place];
    let dataset = &catalog.dataset;
    let reference = &dataset.refs[row.ref_index];
    let image = dataset.image_record(reference.image_id)?;
    let mut sources = Vec::new();
    for source in studio.sources_of(index) {
        // A mask that cannot be read does not hide the others.
        let (mask, problem) = match source.mask(catalog, place) {
            Ok(mask) => (mask, None),
            Err(error) => (None, Some(one_line(&error))),
        };
        sources.push(json!({
            "name": source.name,
            "segmentation": mask.as_ref().map(run_lengths),
            "problem": problem,
            "measure": source.measure(place),
        }));
    }
    let others: Vec<Value> = reference
        .expressions
        .iter()
        .map(|expression| json!({"sent_id": expression.sent_id, "text": expression.sent}))
        .collect();
    let distractors = dataset.distractor_masks(reference)?;
    Ok(json!({
        "dataset": catalog.name(),
        "ref_id": reference.ref_id,
        "sent_id": row.key.1,
        "text": row.text,
        "expressions": others,
        "split": reference.split,
        "category": row.category,
        "flavour": row.flavour,
        "place": row.has_position_word,
        "image": {"id": image.id, "name": image.file_name, "width": image.width, "height": image.height},
        "target": run_lengths(&dataset.target(reference)?),
        "distractors": distractors.iter().map(run_lengths).collect::<Vec<_>>(),
        "sources": sources,
    }))
}

/// COCO's compressed RLE.
pub(super) fn run_lengths(mask: &Mask) -> Value {
    json!({"size": [mask.height, mask.width], "counts": mask.to_rle_string()})
}
