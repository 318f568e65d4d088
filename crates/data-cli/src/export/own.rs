//! Own data: one `refs.jsonl`.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use refcoco::{Annotation, Ref};
use serde_json::{Value, json};

use super::{Chosen, segmentation};

/// A line for each object with its first ref of one target, and a line for each other ref.
pub(super) fn write(chosen: &Chosen<'_>, folder: &Path) -> Result<()> {
    let path = folder.join("refs.jsonl");
    let file = std::fs::File::create(&path).with_context(|| path.display().to_string())?;
    let mut lines = BufWriter::new(file);
    // The refs keep their order. An object stands in the line of the first ref that asks for it alone.
    let mut alone: BTreeMap<i64, usize> = BTreeMap::new();
    for &index in &chosen.refs {
        if let [ann_id] = chosen.dataset.refs[index].ann_ids[..] {
            alone.entry(ann_id).or_insert(index);
        }
    }
    for &index in &chosen.refs {
        let reference = &chosen.dataset.refs[index];
        let mut line = ref_line(chosen, reference)?;
        match reference.ann_ids[..] {
            [ann_id] if alone.get(&ann_id) == Some(&index) => {
                add_object(chosen, &chosen.dataset.instances.annotations[&ann_id], &mut line)?;
            }
            [] => line["mask"] = Value::Null,
            _ => line["ann_ids"] = json!(reference.ann_ids),
        }
        writeln!(lines, "{line}")?;
    }
    for annotation in chosen.annotations().filter(|annotation| !alone.contains_key(&annotation.id)) {
        let image = chosen.picture(annotation.image_id)?;
        let mut line = json!({"image": image, "image_id": annotation.image_id, "expressions": []});
        // An object whose mask cannot be read and that no ref asks for is left out, as evaluation leaves it out.
        if add_object(chosen, annotation, &mut line).is_ok() {
            writeln!(lines, "{line}")?;
        }
    }
    lines.into_inner().map_err(|error| error.into_error())?.sync_all()?;
    Ok(())
}

fn ref_line(chosen: &Chosen<'_>, reference: &Ref) -> Result<Value> {
    let texts = |of: fn(&refcoco::Expression) -> &String| -> Vec<&String> {
        reference.expressions.iter().map(of).collect()
    };
    let sent_ids: Vec<i64> = reference.expressions.iter().map(|expression| expression.sent_id).collect();
    let mut line = json!({
        "image": chosen.picture(reference.image_id)?,
        "image_id": reference.image_id,
        "expressions": texts(|expression| &expression.sent),
        "split": reference.split,
        "ref_id": reference.ref_id,
        "sent_ids": sent_ids,
    });
    let raw = texts(|expression| &expression.raw);
    if raw != texts(|expression| &expression.sent) {
        line["raw"] = json!(raw);
    }
    Ok(line)
}

fn add_object(chosen: &Chosen<'_>, annotation: &Annotation, line: &mut Value) -> Result<()> {
    line["ann_id"] = annotation.id.into();
    line["mask"] = segmentation(chosen.dataset, annotation)?;
    if let Some(category) = chosen.category(annotation.category_id) {
        line["category"] = category.into();
        line["category_id"] = annotation.category_id.into();
    }
    if annotation.is_crowd {
        line["crowd"] = true.into();
    }
    Ok(())
}
