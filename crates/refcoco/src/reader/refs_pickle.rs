//! `refs(...).p`: the refs in the REFER layout.

use std::collections::BTreeMap;
use std::path::Path;

use safe_pickle::Value;

use super::pickled::{entry, is_dict, parsed, text, whole};
use crate::annotation::{Expression, Ref};
use crate::error::{Error, Result, or_mistaken};
use crate::regular_file::read_regular;

/// Reads a `refs(...).p` pickle of any protocol, in the order of the file. Nothing in it is executed.
///
/// # Errors
/// Names the file and the ref at fault: unreadable pickle, wrong type, missing key, ref id used twice.
pub fn read_refs(path: &Path) -> Result<Vec<Ref>> {
    let data = read_regular(path)?;
    let document = parsed(&data)
        .map_err(|source| or_mistaken(path, Error::Pickle { path: path.to_path_buf(), source }))?;
    let fail = |record: String, what: String| Error::Record { path: path.to_path_buf(), record, what };
    let root = document.root();
    let items = root.items();
    let items = items.ok_or_else(|| {
        fail("top level".into(), format!("must be a list of refs, found a {}", root.type_name()))
    })?;
    let mut refs = Vec::with_capacity(items.len());
    let mut seen = BTreeMap::new();
    for (index, item) in items.enumerate() {
        let record = match entry(item, "ref_id").and_then(whole) {
            Some(ref_id) => format!("ref_id {ref_id}"),
            None => format!("ref number {index}"),
        };
        let parsed = parse_ref(item).map_err(|what| fail(record.clone(), what))?;
        if seen.insert(parsed.ref_id, index).is_some() {
            return Err(fail(record, "this ref_id occurs twice".into()));
        }
        refs.push(parsed);
    }
    Ok(refs)
}

fn parse_ref(item: Value<'_>) -> Result<Ref, String> {
    if !is_dict(item) {
        return Err(format!("a ref must be a dict, found a {}", item.type_name()));
    }
    let sentences = field(item, "sentences")?;
    let sentences = sentences
        .items()
        .ok_or_else(|| format!("`sentences` must be a list, found a {}", sentences.type_name()))?;
    let expressions = sentences.map(|sentence| {
        let sent = string(sentence, "sent")?;
        let raw = match entry(sentence, "raw") {
            Some(_) => string(sentence, "raw")?,
            None => sent.clone(),
        };
        let flavour = entry(sentence, "flavour").and_then(text);
        Ok(Expression { sent_id: int(sentence, "sent_id")?, sent, raw, flavour })
    });
    Ok(Ref {
        ref_id: int(item, "ref_id")?,
        ann_ids: vec![int(item, "ann_id")?],
        image_id: int(item, "image_id")?,
        category_ids: match entry(item, "category_id") {
            // The annotation has it too.
            None => Vec::new(),
            Some(value) if value.type_name() == "None" => Vec::new(),
            Some(_) => vec![int(item, "category_id")?],
        },
        split: string(item, "split")?,
        expressions: expressions.collect::<Result<_, String>>()?,
    })
}

fn field<'a>(item: Value<'a>, key: &str) -> Result<Value<'a>, String> {
    entry(item, key).ok_or_else(|| format!("key `{key}` is missing"))
}

fn int(item: Value<'_>, key: &str) -> Result<i64, String> {
    let value = field(item, key)?;
    whole(value).ok_or_else(|| format!("`{key}` must be an int, found a {}", value.type_name()))
}

fn string(item: Value<'_>, key: &str) -> Result<String, String> {
    let value = field(item, key)?;
    text(value).ok_or_else(|| match value.as_bytes() {
        Some(_) => format!(
            "`{key}` is text that is no Unicode: another encoding, or half of an emoji (a surrogate that stands alone)"
        ),
        None => format!("`{key}` must be text, found a {}", value.type_name()),
    })
}
