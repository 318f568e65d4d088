//! What the server answers at which address.

mod answers;
mod assets;
mod expression;
mod images;
mod predict;
mod rows;
mod runs;
mod session;
mod why;

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, FromRequestParts, Query};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, middleware};

use crate::failure::{Answered, Failure};
use crate::guard::{Guard, MAX_UPLOAD, check};
use crate::state::Studio;

pub(crate) fn router(studio: Arc<Studio>, guard: Arc<Guard>) -> Router {
    Router::new()
        .route("/", get(assets::page))
        .route("/health", get(|| async { "ok" }))
        .route("/assets/{name}", get(assets::asset))
        .route("/api/session", get(session::session))
        .route("/api/rows", get(rows::rows))
        .route("/api/expression", get(expression::expression))
        .route("/api/image", get(images::image))
        .route("/api/predict", post(predict::predict).layer(DefaultBodyLimit::max(MAX_UPLOAD)))
        .route("/api/answers", get(answers::all))
        .route("/api/answer", get(answers::answer))
        .route("/api/answer/image", get(answers::image))
        .route("/api/answer/map", get(answers::map))
        .route("/api/answer/mask", get(answers::mask))
        .route("/api/answer/rle", get(answers::rle))
        .route("/api/answer/overlay", get(answers::overlay))
        .route("/api/why", get(why::why))
        .route("/api/run", get(runs::run))
        .route("/api/run/curves", get(runs::curves))
        .route("/api/run/picture", get(runs::picture))
        .fallback(|| async { Failure::missing("there is nothing at this address") })
        .method_not_allowed_fallback(|| async {
            Failure::new(StatusCode::METHOD_NOT_ALLOWED, "this address is asked in another way")
        })
        .layer(middleware::from_fn_with_state(guard, check))
        .with_state(studio)
}

/// Parameters in an address. What is wrong with them is told like any other failure.
struct Parameters<T>(T);

impl<T: serde::de::DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answered<Self> {
        let found = Query::<T>::from_request_parts(parts, state).await;
        found
            .map(|Query(parameters)| Self(parameters))
            .map_err(|error| Failure::bad(plainly(&error.body_text())))
    }
}

/// A message about parameters, without what only programmers read.
fn plainly(message: &str) -> String {
    message.trim_start_matches("Failed to deserialize query string: ").to_owned()
}

/// Bytes with their type.
fn typed(kind: &'static str, bytes: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static(kind))], bytes).into_response()
}

/// Bytes that the browser saves under a name.
fn download(kind: &'static str, name: &str, bytes: Vec<u8>) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{name}\"")) {
        headers.insert(header::CONTENT_DISPOSITION, value);
    }
    (headers, bytes).into_response()
}

/// Carries out work on pixels in a thread of its own, with few at the same time.
async fn on_pixels<T: Send + 'static>(
    studio: &Studio,
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> Answered<T> {
    let permit = Arc::clone(&studio.decoders).acquire_owned().await.map_err(|_| Failure::busy())?;
    let worked = tokio::task::spawn_blocking(move || {
        let result = work();
        drop(permit);
        result
    });
    match worked.await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Failure::bad("the picture cannot be worked on")),
    }
}
