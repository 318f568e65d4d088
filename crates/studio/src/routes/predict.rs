//! A prediction, for the page and for other programs: `POST /api/predict`.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::extract::multipart::{Multipart, MultipartError, MultipartRejection};
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::on_pixels;
use crate::engine::Question;
use crate::failure::{Answered, Failure};
use crate::history::Entry;
use crate::picture::Picture;
use crate::state::Studio;

/// Bytes of the longest expression; the networks read far less.
const MAX_EXPRESSION: usize = 4000;
/// Bytes of the longest text in another field.
const MAX_FIELD: usize = 400;
/// Characters of the longest name of a file that is kept.
const MAX_NAME: usize = 200;
/// Longest time for an upload, so that a few that never end do not keep others waiting.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(20);

/// The fields of the form.
#[derive(Debug, Default)]
struct Form {
    /// Name and content of an uploaded file.
    image: Option<(String, Vec<u8>)>,
    /// `id` of an earlier answer's picture, in place of a file.
    picture: Option<String>,
    /// A picture of a data set, in place of a file. With `ref_id` the target is known.
    dataset: Option<String>,
    image_id: Option<i64>,
    ref_id: Option<i64>,
    expression: Option<String>,
    checkpoint: Option<String>,
}

/// A picture with its name and, if the target is known, data set and ref.
type Chosen = (Arc<Picture>, String, Option<(usize, i64)>);

pub(super) async fn predict(
    State(studio): State<Arc<Studio>>,
    form: Result<Multipart, MultipartRejection>,
) -> Answered<Json<Value>> {
    let permit = Arc::clone(&studio.uploads).try_acquire_owned().map_err(|_| Failure::busy())?;
    let form = form.map_err(|error| Failure::bad(error.body_text()))?;
    let form = tokio::time::timeout(UPLOAD_TIMEOUT, read(form)).await;
    let form = form.map_err(|_| Failure::new(StatusCode::REQUEST_TIMEOUT, "the upload took too long"))??;
    let engine = studio.engine()?;
    let expression = form.expression.clone().unwrap_or_default();
    if expression.trim().is_empty() {
        return Err(Failure::bad("`expression` is missing or blank"));
    }
    let model = engine.model(form.checkpoint.as_deref().filter(|name| !name.is_empty()))?;
    let (picture, name, of_ref) = chosen(&studio, form).await?;
    drop(permit);
    let question = Question { model, picture: Arc::clone(&picture), expression: expression.clone() };
    let answer = engine.predict(question).await?;
    let threshold = engine.models()[model].threshold;
    let entry = studio.history.keep(|id| Entry {
        id,
        model,
        picture,
        name,
        expression,
        fields: answer.fields,
        probabilities: answer.probabilities,
        threshold,
        of_ref,
    });
    Ok(Json(shown(&studio, &entry)))
}

/// An answer as JSON: what `predict` writes, and where the rest of it is.
pub(super) fn shown(studio: &Studio, entry: &Entry) -> Value {
    let models = studio.engine.as_ref().map_or(&[][..], |engine| engine.models());
    let mut answer = entry.fields.clone();
    answer.insert("image".into(), entry.name.clone().into());
    answer.insert("expression".into(), entry.expression.clone().into());
    answer.insert("id".into(), entry.id.into());
    if entry.picture.is_cut_short {
        answer.insert("warning".into(), "the JPEG has no end marker: part of it may be missing".into());
    }
    answer.insert("picture".into(), entry.picture.id.clone().into());
    answer.insert("width".into(), entry.picture.pixels.width.into());
    answer.insert("height".into(), entry.picture.pixels.height.into());
    answer.insert("checkpoint".into(), json!(models.get(entry.model).map(|model| &model.name)));
    if let Some((catalog, ref_id)) = entry.of_ref {
        answer.insert("dataset".into(), studio.catalogs[catalog].name().into());
        answer.insert("ref_id".into(), ref_id.into());
    }
    Value::Object(answer)
}

async fn read(mut multipart: Multipart) -> Answered<Form> {
    let mut form = Form::default();
    let broken = |error: MultipartError| match error.status() {
        status if status.is_client_error() => Failure::new(status, error.body_text()),
        _ => Failure::bad("the form is malformed"),
    };
    while let Some(field) = multipart.next_field().await.map_err(broken)? {
        let name = field.name().unwrap_or_default().to_owned();
        if name == "image" {
            let file = field.file_name().unwrap_or("image").chars().take(MAX_NAME).collect();
            let bytes = field.bytes().await.map_err(broken)?.to_vec();
            if form.image.replace((file, bytes)).is_some() {
                return Err(Failure::bad("there are two fields `image`"));
            }
            continue;
        }
        let bytes = field.bytes().await.map_err(broken)?;
        let limit = if name == "expression" { MAX_EXPRESSION } else { MAX_FIELD };
        if bytes.len() > limit {
            let name = shortened(&name);
            return Err(Failure::bad(format!("`{name}` is longer than {limit} bytes")));
        }
        let text =
            String::from_utf8(bytes.to_vec()).map_err(|_| Failure::bad(format!("`{name}` is not UTF-8")))?;
        let number =
            || text.trim().parse().map_err(|_| Failure::bad(format!("`{name}` must be a whole number")));
        let is_twice = match name.as_str() {
            "image_id" => form.image_id.replace(number()?).is_some(),
            "ref_id" => form.ref_id.replace(number()?).is_some(),
            "expression" => form.expression.replace(text).is_some(),
            "checkpoint" => form.checkpoint.replace(text).is_some(),
            "picture" => form.picture.replace(text).is_some(),
            "dataset" => form.dataset.replace(text).is_some(),
            _ => return Err(Failure::bad(format!("there is no field `{}`", shortened(&name)))),
        };
        if is_twice {
            return Err(Failure::bad(format!("there are two fields `{name}`")));
        }
    }
    Ok(form)
}

fn shortened(name: &str) -> String {
    name.chars().take(40).collect()
}

/// The picture that the form names.
async fn chosen(studio: &Arc<Studio>, form: Form) -> Answered<Chosen> {
    if let Some((name, bytes)) = form.image {
        let picture = on_pixels(studio, move || Picture::decode(&bytes)).await?;
        return Ok((Arc::new(picture), name, None));
    }
    if let Some(id) = form.picture {
        let known = studio.history.picture(&id);
        let (picture, name) =
            known.ok_or_else(|| Failure::missing("this picture is not kept any more; choose it again"))?;
        return Ok((picture, name, None));
    }
    let Some(dataset) = form.dataset else {
        return Err(Failure::bad("`image` is missing"));
    };
    let index = studio.catalog(Some(&dataset))?;
    let catalog = &studio.catalogs[index];
    let reference = form.ref_id.map(|id| {
        let found = catalog.reference(id);
        found.ok_or_else(|| Failure::missing(format!("no ref has the id {id}")))
    });
    let reference = reference.transpose()?;
    let image_id = match (reference, form.image_id) {
        (Some(reference), _) => reference.image_id,
        (None, Some(id)) => id,
        (None, None) => return Err(Failure::bad("`image_id` or `ref_id` is missing")),
    };
    let name = catalog.image(image_id)?.file_name.clone();
    let shared = Arc::clone(studio);
    let picture = on_pixels(studio, move || {
        let pixels = shared.catalogs[index].dataset.image(image_id)?;
        Ok(Picture { id: format!("{dataset}-{image_id}"), pixels, is_cut_short: false })
    });
    Ok((Arc::new(picture.await?), name, reference.map(|reference| (index, reference.ref_id))))
}
