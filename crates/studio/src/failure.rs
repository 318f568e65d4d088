//! What a request is answered that cannot be fulfilled: a status, and one line that says why.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use command_kit::one_line;
use serde_json::json;

#[derive(Debug)]
pub(crate) struct Failure {
    status: StatusCode,
    message: String,
}

pub(crate) type Answered<T> = Result<T, Failure>;

impl Failure {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into().replace(['\n', '\r'], " ") }
    }

    /// The request is wrong.
    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// Nothing has this name.
    pub(crate) fn missing(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// Others are being served.
    pub(crate) fn busy() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "busy: other requests are being answered; try again in a moment",
        )
    }
}

impl From<anyhow::Error> for Failure {
    /// The request is well formed, but its content cannot be worked on.
    fn from(error: anyhow::Error) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, one_line(&error))
    }
}

impl From<refcoco::Error> for Failure {
    fn from(error: refcoco::Error) -> Self {
        anyhow::Error::from(error).into()
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, Json(json!({"error": self.message}))).into_response()
    }
}
