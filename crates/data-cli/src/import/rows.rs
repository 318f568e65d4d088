//! Rows of the public Parquet layouts of RefCOCO, and of tables like them.

use anyhow::{Context, Result, bail};
use parquet::file::reader::FileReader;
use parquet::record::{Field, Row};
use serde_json::{Value, json};

use crate::import::coco_categories;

/// One object, from one row.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) picture: Picture,
    pub(super) mask: Mask,
    pub(super) expressions: Vec<String>,
    pub(super) category: Option<String>,
    pub(super) split: Option<String>,
    pub(super) ref_id: Option<i64>,
    pub(super) sent_ids: Option<Vec<i64>>,
}

/// An object's mask.
#[derive(Debug)]
pub(super) enum Mask {
    /// The row has none.
    None,
    /// A COCO segmentation.
    Coco(Value),
    /// The bytes of a mask picture.
    Picture(Vec<u8>),
}

/// A picture: its bytes, or only its path.
#[derive(Debug, Clone)]
pub(super) struct Picture {
    /// Empty if it has none.
    pub(super) name: String,
    pub(super) bytes: Option<Vec<u8>>,
}

/// Columns that may hold the expressions, in the order in which they are looked up.
const EXPRESSION_COLUMNS: [&str; 6] =
    ["answer", "expressions", "sentences", "expression", "sentence", "text"];

/// Layout of a file, recognised by its columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Table {
    /// One object a row: `image {bytes, path}`, its expressions, and its mask as polygons or RLE (`segmentation`) or as a picture
    /// (`mask {bytes, path}`). lmms-lab/RefCOCO is of this kind.
    Objects { expressions: &'static str, mask: &'static str },
    /// `raw_anns` (a COCO annotation as JSON), `sentences`, `image_path`, `split`, `ref_id`.
    Jxu124,
    /// One image a row, with all its objects: `image {bytes, path}`, `file_name`, `samples [{id, category, sentences, mask}]`.
    RefcocoM,
}

impl Table {
    pub(super) fn recognise(reader: &dyn FileReader) -> Result<Self> {
        let schema = reader.metadata().file_metadata().schema();
        let columns: Vec<&str> = schema.get_fields().iter().map(|field| field.name()).collect();
        let has = |names: &[&str]| names.iter().all(|name| columns.contains(name));
        if has(&["raw_anns", "sentences", "image_path"]) {
            return Ok(Self::Jxu124);
        }
        if has(&["image", "samples"]) {
            return Ok(Self::RefcocoM);
        }
        let expressions = EXPRESSION_COLUMNS.into_iter().find(|name| columns.contains(name));
        let mask = ["segmentation", "mask"].into_iter().find(|name| columns.contains(name));
        match (has(&["image"]), expressions, mask) {
            (true, Some(expressions), Some(mask)) => Ok(Self::Objects { expressions, mask }),
            _ => bail!(
                "its columns are none of these: lmms-lab/RefCOCO (image, answer, segmentation), jxu124/refcoco (raw_anns, \
                 sentences, image_path), moondream/refcoco-m (image, samples), or image, mask and expressions; it has {}",
                columns.join(", ")
            ),
        }
    }

    /// The objects of a row.
    pub(super) fn objects(&self, row: &Row) -> Result<Vec<Object>> {
        match self {
            Self::Objects { expressions, mask } => Ok(vec![one_object(row, expressions, mask)?]),
            Self::Jxu124 => Ok(vec![jxu124(row)?]),
            Self::RefcocoM => refcoco_m(row),
        }
    }
}

/// The picture of a struct `{bytes, path}`.
fn picture(field: &Field) -> Result<(Option<Vec<u8>>, Option<String>)> {
    let (mut bytes, mut path) = (None, None);
    match field {
        Field::Group(image) => {
            for (name, field) in image.get_column_iter() {
                match (name.as_str(), field) {
                    ("bytes", Field::Bytes(data)) => bytes = Some(data.data().to_vec()),
                    ("path", Field::Str(text)) => path = Some(text.clone()),
                    _ => {}
                }
            }
        }
        Field::Bytes(data) => bytes = Some(data.data().to_vec()),
        Field::Str(text) => path = Some(text.clone()),
        Field::Null => {}
        other => bail!("expected a picture (bytes, path), found {}", short(other)),
    }
    Ok((bytes, path))
}

/// The picture in column `image`, named by `file_name` or by its path.
fn named_picture(row: &Row) -> Result<Picture> {
    let (bytes, path) = picture(column(row, "image")?).context("image")?;
    let name = optional_text(row, "file_name").or(path).filter(|name| !name.is_empty());
    // A picture inside the file needs no name.
    let name = match (name, &bytes) {
        (Some(name), _) => name,
        (None, Some(_)) => String::new(),
        (None, None) => {
            bail!("neither `file_name` nor `image.path` names the picture, and it is not inside the file")
        }
    };
    Ok(Picture { name, bytes })
}

fn one_object(row: &Row, expressions: &str, mask: &str) -> Result<Object> {
    let mask = match mask {
        "mask" => match picture(column(row, mask)?).context("mask")?.0 {
            Some(bytes) => Mask::Picture(bytes),
            None => Mask::None,
        },
        _ => segmentation(column(row, mask)?).context("segmentation")?,
    };
    Ok(Object {
        picture: named_picture(row)?,
        mask,
        expressions: texts(column(row, expressions)?).with_context(|| expressions.to_owned())?,
        category: None,
        split: optional_text(row, "split"),
        ref_id: None,
        sent_ids: None,
    })
}

/// All objects of a row of RefCOCO-M.
fn refcoco_m(row: &Row) -> Result<Vec<Object>> {
    let whole = named_picture(row)?;
    let samples = items(column(row, "samples")?).context("samples")?;
    let object = |sample: &Field| -> Result<Object> {
        let Field::Group(sample) = sample else { bail!("samples: expected groups, found {}", short(sample)) };
        let id = integer(column(sample, "id")?).context("samples: id")?;
        let at = || format!("sample {id}");
        Ok(Object {
            picture: whole.clone(),
            mask: segmentation(column(sample, "mask")?).with_context(at)?,
            expressions: texts(column(sample, "sentences")?).with_context(at)?,
            category: optional_text(sample, "category"),
            split: None,
            ref_id: Some(id),
            sent_ids: None,
        })
    };
    samples.iter().map(object).collect()
}

/// A segmentation of numbers (one polygon), lists of numbers (several), an RLE `{size, counts}`, or COCO's JSON as text.
fn segmentation(field: &Field) -> Result<Mask> {
    let value = match field {
        Field::Str(text) => serde_json::from_str(text).context("expected COCO's JSON")?,
        other => json_value(other)?,
    };
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    Ok(match value {
        value if is_empty(&value) => Mask::None,
        Value::Array(items) if items.iter().all(is_empty) => Mask::None,
        Value::Array(items) if items.iter().all(Value::is_number) => Mask::Coco(json!([items])),
        value @ (Value::Array(_) | Value::Object(_)) => Mask::Coco(value),
        other => bail!("expected polygons or an RLE, found {}", shortened(&other.to_string())),
    })
}

fn json_value(field: &Field) -> Result<Value> {
    Ok(match field {
        Field::Null => Value::Null,
        Field::ListInternal(list) => {
            Value::Array(list.elements().iter().map(json_value).collect::<Result<_>>()?)
        }
        Field::Group(row) => {
            let entries = row.get_column_iter();
            Value::Object(
                entries.map(|(name, field)| Ok((name.clone(), json_value(field)?))).collect::<Result<_>>()?,
            )
        }
        Field::Str(text) => json!(text),
        Field::Bytes(data) => json!(data.as_utf8().context("expected text")?),
        other => number(other)?,
    })
}

fn number(field: &Field) -> Result<Value> {
    Ok(match field {
        // The shortest decimal that gives this float32, so that 12.3 stays 12.3.
        Field::Float(value) => json!(value.to_string().parse::<f64>().context("a number")?),
        Field::Double(value) => json!(value),
        Field::Byte(value) => json!(value),
        Field::Short(value) => json!(value),
        Field::Int(value) => json!(value),
        Field::Long(value) => json!(value),
        Field::UByte(value) => json!(value),
        Field::UShort(value) => json!(value),
        Field::UInt(value) => json!(value),
        Field::ULong(value) => json!(value),
        other => bail!("expected numbers, found {}", short(other)),
    })
}

fn optional_text(row: &Row, name: &str) -> Option<String> {
    row.get_column_iter().find_map(|(column, field)| match field {
        Field::Str(text) if column == name => Some(text.clone()),
        _ => None,
    })
}

fn jxu124(row: &Row) -> Result<Object> {
    let annotation: Value = serde_json::from_str(text(column(row, "raw_anns")?)?).context("raw_anns")?;
    let category_id = annotation["category_id"].as_i64().context("raw_anns: `category_id` must be an int")?;
    let (mut expressions, mut sent_ids) = (Vec::new(), Vec::new());
    for sentence in items(column(row, "sentences")?).context("sentences")? {
        let Field::Group(sentence) = sentence else {
            bail!("sentences: expected groups, found {}", short(sentence))
        };
        expressions.push(text(column(sentence, "sent")?)?.to_owned());
        sent_ids.push(integer(column(sentence, "sent_id")?)?);
    }
    let segmentation = &annotation["segmentation"];
    let empty = segmentation.is_null() || segmentation.as_array().is_some_and(Vec::is_empty);
    Ok(Object {
        picture: Picture { name: text(column(row, "image_path")?)?.to_owned(), bytes: None },
        mask: if empty { Mask::None } else { Mask::Coco(segmentation.clone()) },
        expressions,
        category: Some(coco_categories::category(category_id)),
        split: Some(text(column(row, "split")?)?.to_owned()),
        ref_id: Some(integer(column(row, "ref_id")?)?),
        sent_ids: Some(sent_ids),
    })
}

/// A value as it stands in a message.
fn short(field: &Field) -> String {
    shortened(&field.to_string())
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

fn column<'a>(row: &'a Row, name: &str) -> Result<&'a Field> {
    let found = row.get_column_iter().find(|(column, _)| *column == name);
    found.map(|(_, field)| field).with_context(|| format!("there is no column `{name}`"))
}

fn text(field: &Field) -> Result<&str> {
    match field {
        Field::Str(text) => Ok(text),
        other => bail!("expected text, found {}", short(other)),
    }
}

fn integer(field: &Field) -> Result<i64> {
    number(field)?.as_i64().with_context(|| format!("expected an integer, found {}", short(field)))
}

fn items(field: &Field) -> Result<&[Field]> {
    match field {
        Field::ListInternal(list) => Ok(list.elements()),
        Field::Null => Ok(&[]),
        other => bail!("expected a list, found {}", short(other)),
    }
}

/// Texts of a list, or the one text of a column that is no list.
fn texts(field: &Field) -> Result<Vec<String>> {
    match field {
        Field::Str(text) => Ok(vec![text.clone()]),
        list => items(list)?.iter().map(|item| Ok(text(item)?.to_owned())).collect(),
    }
}
