//! What responds to the sentence and its words in each adapter and on each level of the neck, and how much of it lies on distractors.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use metrics::Activation;
use refcoco::letterbox::{Letterbox, object_shares};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Parameters, on_pixels};
use crate::engine::{Question, Stage};
use crate::failure::Answered;
use crate::history::Entry;
use crate::state::Studio;

#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    id: u64,
}

pub(super) async fn why(
    State(studio): State<Arc<Studio>>,
    Parameters(asked): Parameters<Asked>,
) -> Answered<Json<Value>> {
    let entry = studio.history.get(asked.id)?;
    let question = Question {
        model: entry.model,
        picture: Arc::clone(&entry.picture),
        expression: entry.expression.clone(),
    };
    let stages = studio.engine()?.stages(question).await?;
    let shared = Arc::clone(&studio);
    Ok(Json(on_pixels(&studio, move || describe(&shared, &entry, stages)).await?))
}

fn describe(studio: &Studio, entry: &Entry, stages: Vec<Stage>) -> anyhow::Result<Value> {
    let (width, height) = (entry.picture.pixels.width, entry.picture.pixels.height);
    let objects = match entry.of_ref {
        None => None,
        Some((catalog, ref_id)) => {
            let catalog = &studio.catalogs[catalog];
            let dataset = &catalog.dataset;
            catalog
                .reference(ref_id)
                .map(|reference| {
                    anyhow::Ok((dataset.target(reference)?, dataset.distractor_masks(reference)?))
                })
                .transpose()?
        }
    };
    let mut shown = Vec::new();
    for stage in stages {
        let letterbox = Letterbox::new(width, height, stage.input_size);
        let nta = objects.as_ref().filter(|(_, distractors)| !distractors.is_empty()).and_then(
            |(target, distractors)| {
                let [target, distractors] = object_shares(&letterbox, target, distractors.iter(), stage.side);
                metrics::response_nta(&stage.response, &target, &distractors)
            },
        );
        shown.push(json!({
            "name": stage.name,
            "word": stage.word,
            "side": stage.side,
            "response": stage.response,
            "picture": place_of_picture(&letterbox),
            "nta": nta,
        }));
    }
    let output_nta = objects.and_then(|(target, distractors)| {
        let others: Vec<&[u8]> = distractors.iter().map(|mask| mask.data.as_slice()).collect();
        let (map, threshold) = (&entry.probabilities, entry.threshold);
        let found = Activation::of_probabilities(map, threshold, &target.data, &others);
        found.nta_mass().filter(|_| !found.distractors.is_empty())
    });
    Ok(json!({"width": width, "height": height, "stages": shown, "output_nta": output_nta}))
}

/// Where the picture lies in the network's square: left, top, width and height as parts of its side.
fn place_of_picture(letterbox: &Letterbox) -> [f64; 4] {
    let [[scale, _, left], [_, _, top]] = letterbox.to_input.0;
    let size = letterbox.size as f64;
    [left, top, scale * letterbox.width as f64, scale * letterbox.height as f64].map(|length| length / size)
}
