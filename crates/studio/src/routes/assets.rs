//! The page itself. All of its files are inside the program.

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::response::Response;

use super::typed;
use crate::failure::{Answered, Failure};

const ASSETS: [(&str, &str, &str); 9] = [
    ("style.css", "text/css; charset=utf-8", include_str!("../../assets/style.css")),
    ("main.js", SCRIPT, include_str!("../../assets/main.js")),
    ("common.js", SCRIPT, include_str!("../../assets/common.js")),
    ("draw.js", SCRIPT, include_str!("../../assets/draw.js")),
    ("try.js", SCRIPT, include_str!("../../assets/try.js")),
    ("why.js", SCRIPT, include_str!("../../assets/why.js")),
    ("table.js", SCRIPT, include_str!("../../assets/table.js")),
    ("case.js", SCRIPT, include_str!("../../assets/case.js")),
    ("runs.js", SCRIPT, include_str!("../../assets/runs.js")),
];
const SCRIPT: &str = "text/javascript; charset=utf-8";

pub(super) async fn page() -> Response {
    typed("text/html; charset=utf-8", include_bytes!("../../assets/index.html").to_vec())
}

pub(super) async fn asset(name: Result<Path<String>, PathRejection>) -> Answered<Response> {
    let name = name.map(|Path(name)| name).unwrap_or_default();
    let found = ASSETS.iter().find(|(asset, ..)| *asset == name);
    let (_, kind, text) = found.ok_or_else(|| Failure::missing("there is nothing at this address"))?;
    Ok(typed(kind, text.as_bytes().to_vec()))
}
