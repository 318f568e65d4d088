//! Lists of pictures and expressions to predict, as CSV or JSONL.

use std::collections::HashMap;
use std::path::Path;

use refcoco::{json_problem, whole_number};
use serde_json::{Map, Value};

use crate::error::{Error, Result, read_bytes};
use crate::predictions::Key;

/// A picture and an expression about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PictureQuery {
    /// Name of the picture, as the file has it.
    pub image: String,
    /// The referring expression, not blank.
    pub expression: String,
    /// `ref_id` and `sent_id`, each where the file has it.
    pub ids: (Option<i64>, Option<i64>),
}

impl PictureQuery {
    /// The key of its prediction, if it has both ids.
    pub fn key(&self) -> Option<Key> {
        self.ids.0.zip(self.ids.1)
    }
}

/// Columns that are read; others are left alone.
const COLUMNS: [&str; 4] = ["image", "expression", "ref_id", "sent_id"];

/// Reads a list of queries: JSONL (or one JSON array) of objects with `image`, `expression` and, if wanted, `ref_id` and `sent_id`; or
/// CSV with these as column names in its first line, separated by commas, semicolons or tabs. The content decides which it is, not the
/// file's name.
///
/// # Errors
/// When the file cannot be read, lacks a column, holds no query, or a line has no picture, a blank expression or an id that is no
/// whole number; the message names the line.
pub fn read_queries(path: &Path) -> Result<Vec<PictureQuery>> {
    let bytes = read_bytes(path)?;
    if let Some(what) = file_kind::mistaken(&bytes[..bytes.len().min(file_kind::PREFIX_LEN)]) {
        return Err(line_error(path, 1, what.into()));
    }
    let text = file_kind::without_mark(&bytes);
    let is_json = text.trim_ascii_start().first().is_some_and(|&byte| byte == b'{' || byte == b'[');
    let queries = if is_json { of_json(path)? } else { of_csv(path, text)? };
    if queries.is_empty() {
        return Err(line_error(path, 1, "the file holds no query".into()));
    }
    Ok(queries)
}

fn line_error(path: &Path, number: usize, what: String) -> Error {
    Error::Line { path: path.to_path_buf(), number, what }
}

fn of_json(path: &Path) -> Result<Vec<PictureQuery>> {
    let query = |(number, line): (usize, String)| {
        let fields: Map<String, Value> =
            serde_json::from_str(&line).map_err(|error| line_error(path, number, json_problem(&error)))?;
        let field = |column: &str| {
            let mut fields = fields.iter();
            let found = fields.find(|(key, _)| key.trim().eq_ignore_ascii_case(column));
            found.map(|(_, value)| value.clone())
        };
        query(field).map_err(|what| line_error(path, number, what))
    };
    refcoco::read_lines(path)?.map(|line| query(line?)).collect()
}

/// The separator of a CSV file, and the text behind a first line that names it (`sep=;`, as Excel writes). Otherwise the first line
/// decides: programs that write decimal commas separate columns by semicolons.
fn separator(text: &[u8]) -> (u8, &[u8]) {
    let end = text.iter().position(|&byte| byte == b'\n').map_or(text.len(), |end| end + 1);
    let first = &text[..end];
    if let Some(&[separator, ..]) = first.strip_prefix(b"sep=") {
        return (separator, &text[end..]);
    }
    let count = |separator: u8| first.iter().filter(|&&byte| byte == separator).count();
    let most = [b',', b';', b'\t'].into_iter().rev().max_by_key(|&separator| count(separator));
    (most.unwrap_or(b','), text)
}

fn of_csv(path: &Path, text: &[u8]) -> Result<Vec<PictureQuery>> {
    if text.trim_ascii().is_empty() {
        return Err(line_error(path, 1, "the file is blank".into()));
    }
    let (separator, body) = separator(text);
    let n_before = usize::from(body.len() < text.len());
    let mut reader =
        csv::ReaderBuilder::new().delimiter(separator).trim(csv::Trim::Headers).from_reader(body);
    let headers = reader.headers().map_err(|error| csv_error(path, &error))?.clone();
    let columns = columns(&headers).map_err(|what| line_error(path, 1 + n_before, what))?;
    let mut queries = Vec::new();
    let mut last = None;
    for record in reader.records() {
        let record = record.map_err(|error| csv_error(path, &error))?;
        let number = n_before + line_of(body, record.position());
        let field = |column: &str| {
            let text = record.get(*columns.get(column)?)?;
            Some(Value::String(text.to_owned()))
        };
        queries.push(query(field).map_err(|what| line_error(path, number, what))?);
        last = record.iter().any(|field| field.contains('\n')).then_some(number);
    }
    // Whole quotes come in pairs.
    let odd = body.iter().filter(|&&byte| byte == b'"').count() % 2 == 1;
    match last.filter(|_| odd) {
        Some(number) => Err(line_error(path, number, "a quote is opened and never closed".into())),
        None => Ok(queries),
    }
}

/// The line in which a record begins; blank lines before it belong to none.
fn line_of(text: &[u8], position: Option<&csv::Position>) -> usize {
    let Some(position) = position else { return 0 };
    let rest = text.get(position.byte() as usize..).unwrap_or_default();
    let blank = rest.iter().take_while(|byte| byte.is_ascii_whitespace());
    position.line() as usize + blank.filter(|&&byte| byte == b'\n').count()
}

/// The place of each column.
fn columns(headers: &csv::StringRecord) -> std::result::Result<HashMap<&'static str, usize>, String> {
    let mut found = HashMap::new();
    for column in COLUMNS {
        let mut places = headers.iter().enumerate().filter(|(_, header)| header.eq_ignore_ascii_case(column));
        found.extend(places.next().map(|(place, _)| (column, place)));
        if places.next().is_some() {
            return Err(format!("there are two columns `{column}`"));
        }
    }
    if let Some(missing) = COLUMNS[..2].iter().find(|column| !found.contains_key(*column)) {
        let all: Vec<&str> = headers.iter().collect();
        return Err(format!(
            "there is no column `{missing}` (found: {}); needed are image and expression, allowed ref_id and sent_id",
            all.join(", ")
        ));
    }
    Ok(found)
}

fn csv_error(path: &Path, error: &csv::Error) -> Error {
    let number = error.position().map_or(1, |position| position.line() as usize);
    let what = match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!(
                "it has {len} columns and the first line {expected_len}; quote text that holds the separator"
            )
        }
        csv::ErrorKind::Utf8 { .. } => "it is not UTF-8; save the file as UTF-8".to_owned(),
        _ => error.to_string(),
    };
    line_error(path, number, what)
}

/// A query from the fields of a line.
fn query(field: impl Fn(&str) -> Option<Value>) -> std::result::Result<PictureQuery, String> {
    let text = |column: &str| match field(column) {
        Some(Value::String(text)) if !text.trim().is_empty() => Ok(text),
        Some(Value::String(_)) => Err(format!("`{column}` is blank")),
        Some(other) => Err(format!("`{column}` must be text, not {other}")),
        None => Err(format!("`{column}` is missing; needed are image and expression")),
    };
    let id = |column: &str| match field(column) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
        Some(value) => match whole_number(&value) {
            Some(id) => Ok(Some(id)),
            None => Err(format!("`{column}` must be a whole number, not {value}")),
        },
    };
    Ok(PictureQuery {
        image: text("image")?,
        expression: text("expression")?,
        ids: (id("ref_id")?, id("sent_id")?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> std::result::Result<Vec<PictureQuery>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read_queries(file.path()).map_err(|error| error.to_string())
    }

    fn one(image: &str, expression: &str, ids: (Option<i64>, Option<i64>)) -> PictureQuery {
        PictureQuery { image: image.into(), expression: expression.into(), ids }
    }

    #[test]
    fn forms_of_one_list() {
        let expected =
            [one("a/b.jpg", "left, \"red\" one", (Some(3), Some(17))), one("c.png", "löwe", (None, None))];
        let forms = [
            "image,expression,ref_id,sent_id\na/b.jpg,\"left, \"\"red\"\" one\",3,17\nc.png,löwe,,\n",
            "\u{feff}Expression;sent_id; image ;ref_id;more\r\n\"left, \"\"red\"\" one\";17;a/b.jpg;3;x\r\n\r\nlöwe;;c.png;;\r\n",
            "sep=;\nimage;expression;ref_id;sent_id\na/b.jpg;\"left, \"\"red\"\" one\";3;17\nc.png;löwe;;\n",
            "image\texpression\tref_id\tsent_id\na/b.jpg\t\"left, \"\"red\"\" one\"\t3\t17\nc.png\tlöwe\t\t",
            "{\"image\": \"a/b.jpg\", \"expression\": \"left, \\\"red\\\" one\", \"ref_id\": 3, \"sent_id\": \"17\"}\n\
             {\"image\": \"c.png\", \"expression\": \"l\\u00f6we\", \"sent_id\": null}\n",
            "[{\"Image\": \"a/b.jpg\", \"expression\": \"left, \\\"red\\\" one\", \"ref_id\": 3.0, \"sent_id\": 17},\n\
             {\"image\": \"c.png\", \"expression\": \"löwe\"}]",
        ];
        for form in forms {
            assert_eq!(read(form.as_bytes()).unwrap(), expected, "{form}");
        }
        assert_eq!((expected[0].key(), expected[1].key()), (Some((3, 17)), None));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let cases: [(&[u8], &str, &str); 16] = [
            (b"", "line 1", "the file is empty"),
            (b"\xff\xfei\0m\0", "line 1", "UTF-16"),
            (b"\x1f\x8b\x08\0", "line 1", "gunzip"),
            (b"image,expression\na,b\n\n\n,c\n", "line 5", "`image` is blank"),
            (b"image,expression,Image\na,b,c\n", "line 1", "two columns `image`"),
            (b"image,expression\na,b\nc,\"d\ne,f\n", "line 3", "never closed"),
            (b"image,expression\n", "line 1", "no query"),
            (b"picture,text\na,b\n", "line 1", "found: picture, text"),
            (b"image,expression\na.jpg,left\nb.jpg,  \n", "line 3", "`expression` is blank"),
            (b"image,expression\na.jpg,left, red\n", "line 2", "quote text"),
            (b"image,expression,ref_id\na.jpg,left,x1\n", "line 2", "`ref_id` must be a whole number"),
            (b"image,expression\na.jpg,l\xf6we\n", "line 2", "UTF-8"),
            (b"{\"image\": \"a\"}\n", "line 1", "`expression` is missing"),
            (b"{\"image\": 3, \"expression\": \"x\"}\n", "line 1", "must be text, not 3"),
            (b"{\"image\": \"a\", \"expression\": \"x\"}\n{\"image\"\n", "line 2", "half a file"),
            (b"[1]", "line 1", "expected an object"),
        ];
        for (text, line, what) in cases {
            let error = read(text).unwrap_err();
            assert!(
                error.contains(line) && error.contains(what),
                "{}: {error}",
                String::from_utf8_lossy(text)
            );
        }
    }
}
