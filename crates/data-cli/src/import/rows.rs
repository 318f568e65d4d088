//! Rows of the two public Parquet layouts of RefCOCO.

use anyhow::{Context, Result, bail};
use parquet::file::reader::FileReader;
use parquet::record::{Field, Row};
use serde_json::{Value, json};

use crate::import::coco;

/// One object, from one row.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) picture: Picture,
    /// A COCO segmentation; `None` if the row has none.
    pub(super) mask: Option<Value>,
    pub(super) expressions: Vec<String>,
    pub(super) category: Option<String>,
    pub(super) split: Option<String>,
    pub(super) ref_id: Option<i64>,
    pub(super) sent_ids: Option<Vec<i64>>,
}

/// A picture: its bytes, or only its path.
#[derive(Debug)]
pub(super) struct Picture {
    pub(super) name: String,
    pub(super) bytes: Option<Vec<u8>>,
}

/// Layout of a file, recognised by its columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    /// `image {bytes, path}`, `answer` (the expressions), `segmentation` (one polygon), `iscrowd`, `file_name`.
    Lmms,
    /// `raw_anns` (a COCO annotation as JSON), `sentences`, `image_path`, `split`, `ref_id`.
    Jxu124,
}

impl Table {
    pub(super) fn recognise(reader: &dyn FileReader) -> Result<Self> {
        let schema = reader.metadata().file_metadata().schema();
        let columns: Vec<&str> = schema.get_fields().iter().map(|field| field.name()).collect();
        let has = |names: &[&str]| names.iter().all(|name| columns.contains(name));
        if has(&["image", "answer", "segmentation"]) {
            Ok(Self::Lmms)
        } else if has(&["raw_anns", "sentences", "image_path"]) {
            Ok(Self::Jxu124)
        } else {
            bail!(
                "its columns are neither those of lmms-lab/RefCOCO (image, answer, segmentation) nor those of \
                 jxu124/refcoco (raw_anns, sentences, image_path): {}",
                columns.join(", ")
            )
        }
    }

    pub(super) fn object(self, row: &Row) -> Result<Object> {
        match self {
            Self::Lmms => lmms(row),
            Self::Jxu124 => jxu124(row),
        }
    }
}

fn lmms(row: &Row) -> Result<Object> {
    let (mut bytes, mut path) = (None, None);
    if let Field::Group(image) = column(row, "image")? {
        for (name, field) in image.get_column_iter() {
            match (name.as_str(), field) {
                ("bytes", Field::Bytes(data)) => bytes = Some(data.data().to_vec()),
                ("path", Field::Str(text)) => path = Some(text.clone()),
                _ => {}
            }
        }
    }
    let name = match row.get_column_iter().find(|(name, _)| *name == "file_name") {
        Some((_, Field::Str(name))) => name.clone(),
        _ => path.context("neither `file_name` nor `image.path` names the picture")?,
    };
    let corners = numbers(column(row, "segmentation")?).context("segmentation")?;
    Ok(Object {
        picture: Picture { name, bytes },
        mask: (!corners.is_empty()).then(|| json!([corners])),
        expressions: texts(column(row, "answer")?).context("answer")?,
        category: None,
        split: None,
        ref_id: None,
        sent_ids: None,
    })
}

fn jxu124(row: &Row) -> Result<Object> {
    let annotation: Value = serde_json::from_str(text(column(row, "raw_anns")?)?).context("raw_anns")?;
    let category_id = annotation["category_id"].as_i64().context("raw_anns: `category_id` must be an int")?;
    let (mut expressions, mut sent_ids) = (Vec::new(), Vec::new());
    for sentence in items(column(row, "sentences")?).context("sentences")? {
        let Field::Group(sentence) = sentence else { bail!("sentences: expected groups, found {sentence}") };
        expressions.push(text(column(sentence, "sent")?)?.to_owned());
        sent_ids.push(integer(column(sentence, "sent_id")?)?);
    }
    let segmentation = &annotation["segmentation"];
    let empty = segmentation.is_null() || segmentation.as_array().is_some_and(Vec::is_empty);
    Ok(Object {
        picture: Picture { name: text(column(row, "image_path")?)?.to_owned(), bytes: None },
        mask: (!empty).then(|| segmentation.clone()),
        expressions,
        category: Some(coco::category(category_id)),
        split: Some(text(column(row, "split")?)?.to_owned()),
        ref_id: Some(integer(column(row, "ref_id")?)?),
        sent_ids: Some(sent_ids),
    })
}

fn column<'a>(row: &'a Row, name: &str) -> Result<&'a Field> {
    let found = row.get_column_iter().find(|(column, _)| *column == name);
    found.map(|(_, field)| field).with_context(|| format!("there is no column `{name}`"))
}

fn text(field: &Field) -> Result<&str> {
    match field {
        Field::Str(text) => Ok(text),
        other => bail!("expected text, found {other}"),
    }
}

fn integer(field: &Field) -> Result<i64> {
    match field {
        Field::Long(value) => Ok(*value),
        Field::Int(value) => Ok(i64::from(*value)),
        other => bail!("expected an integer, found {other}"),
    }
}

fn items(field: &Field) -> Result<&[Field]> {
    match field {
        Field::ListInternal(list) => Ok(list.elements()),
        Field::Null => Ok(&[]),
        other => bail!("expected a list, found {other}"),
    }
}

fn texts(field: &Field) -> Result<Vec<String>> {
    items(field)?.iter().map(|item| Ok(text(item)?.to_owned())).collect()
}

fn numbers(field: &Field) -> Result<Vec<f64>> {
    let number = |item: &Field| match item {
        // The shortest decimal that gives this float32, so that 12.3 stays 12.3.
        Field::Float(value) => value.to_string().parse().context("a number"),
        Field::Double(value) => Ok(*value),
        other => bail!("expected numbers, found {other}"),
    };
    items(field)?.iter().map(number).collect()
}
