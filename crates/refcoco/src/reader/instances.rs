//! `instances.json`: images and annotations in the REFER layout.

use std::collections::BTreeMap;
use std::fmt::{self, Formatter};
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::in_one_line;
use super::json_text::JsonText;
use super::lenient::{flag, whole, whole_or_null};
use crate::annotation::{Annotation, ImageRecord};
use crate::error::{Error, Result, io_error, or_mistaken};
use crate::regular_file::open_regular;

/// Contents of an `instances.json`, by id.
#[derive(Debug, Default)]
pub struct Instances {
    /// Images by id.
    pub images: BTreeMap<i64, ImageRecord>,
    /// Annotations by id.
    pub annotations: BTreeMap<i64, Annotation>,
    /// Category names by id.
    pub categories: BTreeMap<i64, String>,
    /// Records that cannot be used, and why. They do no harm unless a ref needs them.
    pub unusable: Unusable,
}

/// Records that lack something or are malformed, and why.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Unusable {
    /// Images by id.
    pub images: BTreeMap<i64, String>,
    /// Annotations by id.
    pub annotations: BTreeMap<i64, String>,
    /// Records without an id, to which nothing can point.
    pub without_id: Vec<String>,
}

impl Unusable {
    /// Why there is no image of this id among the usable ones, as the end of a sentence.
    pub(crate) fn why_no_image(&self, id: i64) -> String {
        why(self.images.get(&id))
    }

    /// Why there is no annotation of this id among the usable ones, as the end of a sentence.
    pub(crate) fn why_no_annotation(&self, id: i64) -> String {
        why(self.annotations.get(&id))
    }

    /// All of them: what each is, and why it cannot be used.
    pub fn iter(&self) -> impl Iterator<Item = (String, &str)> {
        let images = self.images.iter().map(|(id, what)| (format!("image {id}"), what.as_str()));
        let annotations =
            self.annotations.iter().map(|(id, what)| (format!("annotation {id}"), what.as_str()));
        let without_id = self.without_id.iter().map(|what| ("a record".to_owned(), what.as_str()));
        images.chain(annotations).chain(without_id)
    }
}

fn why(unusable: Option<&String>) -> String {
    unusable.map_or_else(|| "has no record".to_owned(), |why| format!("cannot be used: {why}"))
}

#[derive(Deserialize)]
#[serde(expecting = "an image's record")]
struct RawImage {
    #[serde(deserialize_with = "whole")]
    id: i64,
    #[serde(default)]
    file_name: Option<String>,
    #[serde(default, deserialize_with = "whole_or_null")]
    width: Option<i64>,
    #[serde(default, deserialize_with = "whole_or_null")]
    height: Option<i64>,
}

#[derive(Deserialize)]
#[serde(expecting = "an annotation's record")]
struct RawAnnotation {
    #[serde(deserialize_with = "whole")]
    id: i64,
    #[serde(default, deserialize_with = "whole_or_null")]
    image_id: Option<i64>,
    #[serde(default, deserialize_with = "whole_or_null")]
    category_id: Option<i64>,
    /// RRSIS-D's name for it.
    #[serde(default, deserialize_with = "whole_or_null")]
    categories_id: Option<i64>,
    #[serde(default, deserialize_with = "flag")]
    iscrowd: bool,
    #[serde(default)]
    segmentation: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct RawCategory {
    #[serde(deserialize_with = "whole")]
    id: i64,
    #[serde(default)]
    name: Option<String>,
}

/// A record's id alone, for messages.
#[derive(Deserialize)]
struct OnlyId {
    #[serde(deserialize_with = "whole")]
    id: i64,
}

/// Reads an `instances.json`. The file is parsed as a stream; segmentations stay JSON text until they are used. A record that
/// lacks something or is malformed is set aside ([`Instances::unusable`]).
///
/// # Errors
/// Names the file and the record: malformed JSON (and behind which record), an annotation or image id used twice.
pub fn read_instances(path: &Path) -> Result<Instances> {
    let mut file = open_regular(path)?;
    match parse(path, BufReader::with_capacity(1 << 20, skip_mark(path, &mut file)?)) {
        Err(Error::Json { .. } | Error::Record { .. }) if file_kind::mistaken_file(path).is_none() => {}
        read => return read.map_err(|error| or_mistaken(path, error)),
    }
    // Perhaps for a NaN in a field that nobody reads, as Python writes it.
    file.rewind().map_err(io_error(path))?;
    parse(path, BufReader::with_capacity(1 << 20, JsonText::new(file)))
        .map_err(|error| or_mistaken(path, error))
}

/// The file behind a byte order mark, if it begins with one.
fn skip_mark<'a>(path: &Path, file: &'a mut File) -> Result<&'a mut File> {
    let mut start = Vec::new();
    file.by_ref().take(3).read_to_end(&mut start).map_err(io_error(path))?;
    if start != file_kind::BYTE_ORDER_MARK {
        file.rewind().map_err(io_error(path))?;
    }
    Ok(file)
}

fn parse(path: &Path, text: impl Read) -> Result<Instances> {
    let mut builder = Builder::default();
    let mut deserializer = serde_json::Deserializer::from_reader(text);
    let read = deserializer.deserialize_map(Document(&mut builder)).and_then(|()| deserializer.end());
    if let Some(record) = builder.twice {
        let what = "this id occurs twice".to_owned();
        return Err(Error::Record { path: path.to_path_buf(), record, what });
    }
    match (read, builder.last) {
        (Ok(()), _) => Ok(builder.found),
        (Err(source), None) => Err(Error::Json { path: path.to_path_buf(), source }),
        // Sound JSON of another form.
        (Err(source), Some(_)) if source.is_data() => Err(Error::Json { path: path.to_path_buf(), source }),
        (Err(error), Some(last)) => {
            let what = format!("what follows it is no JSON: {}", in_one_line(&error));
            Err(Error::Record { path: path.to_path_buf(), record: last, what })
        }
    }
}

/// What has been read so far.
#[derive(Default)]
struct Builder {
    found: Instances,
    /// The last record read.
    last: Option<String>,
    /// Records of the list that is being read, this one included.
    n_records: usize,
    /// A record whose id has occurred before.
    twice: Option<String>,
}

impl Builder {
    fn image(&mut self, record: &RawValue) {
        let RawImage { id, file_name, width, height } = match serde_json::from_str(record.get()) {
            Ok(raw) => raw,
            Err(error) => return self.set_aside("image", record, &error),
        };
        let size = |name: &str, value: Option<i64>| match value {
            Some(n) => usize::try_from(n).map_err(|_| format!("`{name}` is {n}")),
            None => Err(format!("`{name}` is missing or null")),
        };
        let sizes = size("width", width).and_then(|width| Ok((width, size("height", height)?)));
        let named = file_name.ok_or_else(|| "`file_name` is missing or null".to_owned());
        let record = format!("image {id}");
        let is_new = match named.and_then(|file_name| Ok((file_name, sizes?))) {
            Ok((file_name, (width, height))) => {
                let record = ImageRecord { id, file_name, width, height };
                self.found.images.insert(id, record).is_none()
            }
            Err(what) => self.found.unusable.images.insert(id, what).is_none(),
        };
        self.finish(record, is_new);
    }

    fn annotation(&mut self, record: &RawValue) {
        let RawAnnotation { id, image_id, category_id, categories_id, iscrowd, segmentation } =
            match serde_json::from_str(record.get()) {
                Ok(raw) => raw,
                Err(error) => return self.set_aside("annotation", record, &error),
            };
        let missing = |name: &str| format!("`{name}` is missing or null");
        let usable = image_id.ok_or_else(|| missing("image_id")).and_then(|image_id| {
            Ok(Annotation {
                id,
                image_id,
                category_id: category_id.or(categories_id).ok_or_else(|| missing("category_id"))?,
                is_crowd: iscrowd,
                segmentation: segmentation.ok_or_else(|| missing("segmentation"))?,
            })
        });
        let is_new = match usable {
            Ok(annotation) => self.found.annotations.insert(id, annotation).is_none(),
            Err(what) => self.found.unusable.annotations.insert(id, what).is_none(),
        };
        self.finish(format!("annotation {id}"), is_new);
    }

    /// Names of categories: a list of records, or an object `{"1": "person"}` or `{"person": 1}`. They only serve people, so that
    /// others are left out without an error.
    fn categories(&mut self, raw: &RawValue) {
        let Ok(value) = serde_json::from_str::<serde_json::Value>(raw.get()) else { return };
        let named: Vec<RawCategory> = match value {
            serde_json::Value::Array(records) => {
                records.into_iter().filter_map(|record| serde_json::from_value(record).ok()).collect()
            }
            serde_json::Value::Object(entries) => {
                let entry = |(key, value): (String, serde_json::Value)| match (key.parse(), value) {
                    (Ok(id), serde_json::Value::String(name)) => Some(RawCategory { id, name: Some(name) }),
                    (_, serde_json::Value::Number(id)) => {
                        Some(RawCategory { id: id.as_i64()?, name: Some(key) })
                    }
                    (_, record) => serde_json::from_value(record).ok(),
                };
                entries.into_iter().filter_map(entry).collect()
            }
            _ => Vec::new(),
        };
        let names = named.into_iter().filter_map(|RawCategory { id, name }| Some((id, name?)));
        self.found.categories.extend(names);
    }

    /// A record that is no record of its kind.
    fn set_aside(&mut self, kind: &str, record: &RawValue, error: &serde_json::Error) {
        let what = in_one_line(error);
        match serde_json::from_str::<OnlyId>(record.get()) {
            Ok(OnlyId { id }) => {
                let unusable = &mut self.found.unusable;
                let all = if kind == "image" { &mut unusable.images } else { &mut unusable.annotations };
                let is_new = all.insert(id, what).is_none();
                self.finish(format!("{kind} {id}"), is_new);
            }
            Err(_) => {
                self.found
                    .unusable
                    .without_id
                    .push(format!("number {} of the {kind}s: {what}", self.n_records));
            }
        }
    }

    fn finish(&mut self, record: String, is_new: bool) {
        if !is_new && self.twice.is_none() {
            self.twice = Some(record.clone());
        }
        self.last = Some(record);
    }
}

/// The object that the file is.
struct Document<'a>(&'a mut Builder);

impl<'de> Visitor<'de> for Document<'_> {
    type Value = ();

    fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `images` and `annotations`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (mut images, mut annotations) = (false, false);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "images" => {
                    images = true;
                    map.next_value_seed(Records(self.0, Builder::image))?;
                }
                "annotations" => {
                    annotations = true;
                    map.next_value_seed(Records(self.0, Builder::annotation))?;
                }
                "categories" => self.0.categories(&map.next_value::<Box<RawValue>>()?),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        for (is_there, key) in [(images, "images"), (annotations, "annotations")] {
            if !is_there {
                self.0.last = None;
                return Err(serde::de::Error::custom(format_args!("there is no list `{key}`")));
            }
        }
        Ok(())
    }
}

/// A list of records, or null for none.
struct Records<'a>(&'a mut Builder, fn(&mut Builder, &RawValue));

impl<'de> DeserializeSeed<'de> for Records<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Records<'_> {
    type Value = ();

    fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("a list of records")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        self.0.n_records = 0;
        while let Some(record) = list.next_element::<Box<RawValue>>()? {
            self.0.n_records += 1;
            (self.1)(self.0, &record);
        }
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}
