//! What the program was started with.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::answers::digits;
use crate::state::Studio;

pub(super) async fn session(State(studio): State<Arc<Studio>>) -> Json<Value> {
    let models = studio.engine.as_ref().map_or(&[][..], |engine| engine.models());
    let models: Vec<Value> = models
        .iter()
        .map(|model| json!({"name": model.name, "threshold": digits(model.threshold)}))
        .collect();
    let datasets: Vec<Value> = studio
        .catalogs
        .iter()
        .enumerate()
        .map(|(index, catalog)| {
            let sources: Vec<_> = studio
                .sources
                .iter()
                .filter(|source| source.catalog == index)
                .map(|one| one.state())
                .collect();
            json!({
                "name": catalog.name(),
                "splits": catalog.dataset.splits(),
                "categories": catalog.categories,
                "flavours": catalog.flavours,
                "n_expressions": catalog.rows.len(),
                "sources": sources,
            })
        })
        .collect();
    let runs: Vec<&str> = studio.runs.iter().map(|run| run.name.as_str()).collect();
    let version = env!("CARGO_PKG_VERSION");
    Json(json!({"version": version, "models": models, "datasets": datasets, "runs": runs}))
}
