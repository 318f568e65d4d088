//! Runs, live: their curves, their last figures, and the pictures they have drawn.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::ensure;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use command_kit::curve_panels;
use run_files::{Record, read_records};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Parameters, on_pixels, typed};
use crate::failure::{Answered, Failure};
use crate::state::{Run, Studio};

#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    name: String,
    picture: Option<String>,
}

fn find(studio: &Studio, name: &str) -> Answered<Run> {
    let found = studio.runs.iter().find(|run| run.name == name);
    found.cloned().ok_or_else(|| Failure::missing(format!("there is no run named `{name}` here")))
}

/// Pictures in a run's folder, by name.
fn pictures(run: &Run) -> Vec<(String, PathBuf)> {
    let Ok(entries) = std::fs::read_dir(&run.folder) else { return Vec::new() };
    let files = entries.flatten().map(|entry| entry.path());
    // Links may lead out of the folder.
    let is_file = |path: &PathBuf| path.symlink_metadata().is_ok_and(|found| found.is_file());
    let pictures = files.filter(|path| is_file(path) && path.extension().is_some_and(|kind| kind == "png"));
    let mut named: Vec<(String, PathBuf)> = pictures
        .filter_map(|path| Some((path.file_name()?.to_str()?.to_owned(), path)))
        .filter(|(name, _)| name != "curves.png")
        .collect();
    named.sort();
    named
}

pub(super) async fn run(
    State(studio): State<Arc<Studio>>,
    Parameters(asked): Parameters<Asked>,
) -> Answered<Json<Value>> {
    let run = find(&studio, &asked.name)?;
    Ok(Json(on_pixels(&studio, move || state(&run)).await?))
}

/// The records of a run; none yet if it has just begun.
fn records(run: &Run) -> anyhow::Result<Vec<Record>> {
    ensure!(run.folder.is_dir(), "the folder of the run `{}` is gone", run.name);
    match run.folder.join("records.jsonl").exists() {
        true => Ok(read_records(&run.folder)?),
        false => Ok(Vec::new()),
    }
}

fn state(run: &Run) -> anyhow::Result<Value> {
    let records = records(run)?;
    let last = |wanted: fn(&Record) -> bool| records.iter().rev().find(|record| wanted(record));
    let names: Vec<String> = pictures(run).into_iter().map(|(name, _)| name).collect();
    Ok(json!({
        "name": run.name,
        "finished": run.folder.join("metrics.json").is_file(),
        "n_records": records.len(),
        "step": last(|record| matches!(record, Record::Step(_))),
        "eval": last(|record| matches!(record, Record::Eval(_))),
        "pictures": names,
    }))
}

pub(super) async fn curves(
    State(studio): State<Arc<Studio>>,
    Parameters(asked): Parameters<Asked>,
) -> Answered<Response> {
    let run = find(&studio, &asked.name)?;
    let made = on_pixels(&studio, move || Ok(figures::curves_svg(&curve_panels(&records(&run)?))?));
    // The chart's own style sheet is inside of it.
    let policy = HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'");
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("image/svg+xml")),
        (header::CONTENT_SECURITY_POLICY, policy),
    ];
    Ok((headers, made.await?).into_response())
}

pub(super) async fn picture(
    State(studio): State<Arc<Studio>>,
    Parameters(asked): Parameters<Asked>,
) -> Answered<Response> {
    let run = find(&studio, &asked.name)?;
    let wanted = asked.picture.unwrap_or_default();
    let found = pictures(&run).into_iter().find(|(name, _)| *name == wanted);
    let (_, path) = found.ok_or_else(|| Failure::missing(format!("the run has no picture `{wanted}`")))?;
    let bytes = on_pixels(&studio, move || Ok(std::fs::read(path)?)).await?;
    if !bytes.starts_with(b"\x89PNG") {
        return Err(Failure::missing(format!("`{wanted}` is no PNG file")));
    }
    Ok(typed("image/png", bytes))
}
