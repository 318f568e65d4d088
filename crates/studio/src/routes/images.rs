//! Pictures of the data sets, scaled down.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;

use super::{Parameters, on_pixels, typed};
use crate::failure::Answered;
use crate::picture::thumbnail;
use crate::state::Studio;

#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    dataset: Option<String>,
    image_id: i64,
    /// Longest side in pixels; the next larger of [`SIDES`] is made.
    side: Option<usize>,
}

/// Sides that are made, so that few are kept.
const SIDES: [usize; 3] = [240, 720, 2000];

pub(super) async fn image(
    State(studio): State<Arc<Studio>>,
    Parameters(asked): Parameters<Asked>,
) -> Answered<Response> {
    let index = studio.catalog(asked.dataset.as_deref())?;
    studio.catalogs[index].image(asked.image_id)?;
    let wanted = asked.side.unwrap_or(SIDES[2]);
    let side = SIDES.into_iter().find(|side| *side >= wanted).unwrap_or(SIDES[2]);
    let key = (index, asked.image_id, side);
    if let Some(bytes) = studio.thumbnails.get(key) {
        return Ok(typed("image/jpeg", bytes.to_vec()));
    }
    let shared = Arc::clone(&studio);
    let made =
        on_pixels(&studio, move || thumbnail(shared.catalogs[index].dataset.image(asked.image_id)?, side));
    let bytes = studio.thumbnails.keep(key, made.await?);
    Ok(typed("image/jpeg", bytes.to_vec()))
}
