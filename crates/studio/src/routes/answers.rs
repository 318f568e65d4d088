//! Answers that were given: their pictures, probabilities, and masks at any threshold.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use figures::Canvas;
use refcoco::Mask;
use serde::Deserialize;
use serde_json::{Value, json};

use super::expression::run_lengths;
use super::predict::shown;
use super::{Parameters, download, on_pixels, typed};
use crate::failure::{Answered, Failure};
use crate::history::Entry;
use crate::picture::{grey_png, scaled_grey_png, thumbnail};
use crate::state::Studio;

/// Longest side of the picture on the page.
const SHOWN_SIDE: usize = 2000;
const COLOUR: [u8; 3] = [213, 94, 0];

#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    id: u64,
    threshold: Option<f32>,
    /// Longest side of the map in pixels.
    side: Option<usize>,
}

impl Asked {
    fn threshold(&self, entry: &Entry) -> Answered<f32> {
        let threshold = self.threshold.unwrap_or(entry.threshold);
        match (0.0..1.0).contains(&threshold) {
            true => Ok(threshold),
            false => Err(Failure::bad("`threshold` must be at least 0 and below 1")),
        }
    }
}

pub(super) async fn all(State(studio): State<Arc<Studio>>) -> Json<Value> {
    Json(studio.history.all().iter().map(|entry| shown(&studio, entry)).collect())
}

pub(super) async fn answer(
    State(studio): State<Arc<Studio>>,
    Parameters(asked): Parameters<Asked>,
) -> Answered<Json<Value>> {
    Ok(Json(shown(&studio, &*studio.history.get(asked.id)?)))
}

pub(super) async fn image(
    State(studio): State<Arc<Studio>>,
    Parameters(asked): Parameters<Asked>,
) -> Answered<Response> {
    let entry = studio.history.get(asked.id)?;
    let made = on_pixels(&studio, move || thumbnail(entry.picture.pixels.clone(), SHOWN_SIDE));
    Ok(typed("image/jpeg", made.await?))
}

/// Probabilities in hundredths, rounded up, as a grey picture: a pixel is in the mask at threshold k/100 if its value is above k.
/// Scaled down if a `side` is given.
pub(super) async fn map(
    State(studio): State<Arc<Studio>>,
    Parameters(asked): Parameters<Asked>,
) -> Answered<Response> {
    let entry = studio.history.get(asked.id)?;
    let made = on_pixels(&studio, move || {
        // As `threshold` is read: the page then shows the mask that is saved.
        let thresholds: Vec<f32> =
            (0..100).map(|k| format!("0.{k:02}").parse().unwrap_or_default()).collect();
        let hundredths =
            |&probability: &f32| thresholds.partition_point(|&threshold| probability > threshold) as u8;
        let values: Vec<u8> = entry.probabilities.iter().map(hundredths).collect();
        let (width, height) = (entry.picture.pixels.width, entry.picture.pixels.height);
        scaled_grey_png(values, width, height, asked.side.unwrap_or(usize::MAX))
    });
    Ok(typed("image/png", made.await?))
}

/// A number with the digits that people wrote, not those of its binary form.
pub(super) fn digits(value: f32) -> f64 {
    value.to_string().parse().unwrap_or_else(|_| value.into())
}

/// What `make` makes of an answer's mask at the threshold that is asked for.
async fn of_mask(
    studio: &Studio,
    asked: &Asked,
    make: impl FnOnce(&Entry, Mask, f32) -> anyhow::Result<Vec<u8>> + Send + 'static,
) -> Answered<Vec<u8>> {
    let entry = studio.history.get(asked.id)?;
    let threshold = asked.threshold(&entry)?;
    on_pixels(studio, move || {
        let pixels = &entry.picture.pixels;
        let mask = Mask::above(pixels.width, pixels.height, &entry.probabilities, threshold);
        make(&entry, mask, threshold)
    })
    .await
}

/// White on black, as `predict` writes `mask.png`.
pub(super) async fn mask(
    State(studio): State<Arc<Studio>>,
    Parameters(asked): Parameters<Asked>,
) -> Answered<Response> {
    let made = of_mask(&studio, &asked, |_, mask, _| {
        let values: Vec<u8> = mask.data.iter().map(|pixel| pixel * 255).collect();
        grey_png(&values, mask.width, mask.height)
    });
    Ok(download("image/png", &format!("mask-{}.png", asked.id), made.await?))
}

pub(super) async fn rle(
    State(studio): State<Arc<Studio>>,
    Parameters(asked): Parameters<Asked>,
) -> Answered<Response> {
    let made = of_mask(&studio, &asked, |entry, mask, threshold| {
        let text = json!({
            "image": entry.name,
            "expression": entry.expression,
            "threshold": digits(threshold),
            "segmentation": run_lengths(&mask),
            "box": mask.bounding_box().map(|found| found.xywh()),
            "area": mask.area(),
        });
        Ok(format!("{text:#}\n").into_bytes())
    });
    Ok(download("application/json", &format!("mask-{}.json", asked.id), made.await?))
}

pub(super) async fn overlay(
    State(studio): State<Arc<Studio>>,
    Parameters(asked): Parameters<Asked>,
) -> Answered<Response> {
    let made = of_mask(&studio, &asked, |entry, mask, _| {
        let pixels = entry.picture.pixels.clone();
        let picture = Canvas::from_rgb(pixels.width, pixels.height, pixels.data);
        Ok(figures::overlay(picture, &mask.data, COLOUR).png()?)
    });
    Ok(download("image/png", &format!("overlay-{}.png", asked.id), made.await?))
}
