//! The REFER layout: `refs(unc).p` with `instances.json`, or `grefs(unc).json` where refs have no target or several.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use cli_kit::errln;
use refcoco::{Annotation, Ref};
use serde_json::{Value, json};

use super::{Chosen, descriptor, segmentation};

/// Writes the files; returns the descriptor of the new data set.
pub(super) fn write(chosen: &Chosen<'_>, folder: &Path, name: &str) -> Result<String> {
    let refs: Vec<&Ref> = chosen.refs.iter().map(|&index| &chosen.dataset.refs[index]).collect();
    let one_each = refs.iter().all(|reference| reference.ann_ids.len() == 1);
    let file = if one_each { "refs(unc).p" } else { "grefs(unc).json" };
    let bytes = match one_each {
        true => pickled(chosen, &refs)?,
        false => format!("{}\n", grefs(chosen, &refs)?).into_bytes(),
    };
    whole_file::write(&folder.join(file), &bytes)?;
    whole_file::write(&folder.join("instances.json"), format!("{}\n", instances(chosen)?).as_bytes())?;
    descriptor(chosen, name, if one_each { "refer" } else { "grefcoco" }, file)
}

fn pickled(chosen: &Chosen<'_>, refs: &[&Ref]) -> Result<Vec<u8>> {
    let names: Vec<String> =
        refs.iter().map(|reference| chosen.file_name(reference.image_id)).collect::<Result<_>>()?;
    let mut writer = safe_pickle::Writer::new();
    writer.list(|list| {
        for (reference, name) in refs.iter().zip(&names) {
            list.dict(|one| pickle_ref(one, reference, name));
        }
    });
    Ok(writer.finish())
}

fn pickle_ref(one: &mut safe_pickle::Writer, reference: &Ref, file_name: &str) {
    let first = |ids: &[i64]| ids.first().copied().unwrap_or(-1);
    let numbers = [
        ("ref_id", reference.ref_id),
        ("ann_id", first(&reference.ann_ids)),
        ("image_id", reference.image_id),
        ("category_id", first(&reference.category_ids)),
    ];
    for (key, number) in numbers {
        one.key(key).int(number);
    }
    one.key("split").text(&reference.split).key("file_name").text(file_name);
    one.key("sent_ids").list(|ids| {
        for expression in &reference.expressions {
            ids.int(expression.sent_id);
        }
    });
    one.key("sentences").list(|sentences| {
        for expression in &reference.expressions {
            sentences.dict(|entry| {
                entry.key("sent_id").int(expression.sent_id);
                entry.key("sent").text(&expression.sent).key("raw").text(&expression.raw);
                entry.key("tokens").list(|tokens| {
                    for token in expression.sent.split_whitespace() {
                        tokens.text(token);
                    }
                });
            });
        }
    });
}

fn grefs(chosen: &Chosen<'_>, refs: &[&Ref]) -> Result<Value> {
    let one = |reference: &&Ref| -> Result<Value> {
        let sentences: Vec<Value> = reference
            .expressions
            .iter()
            .map(|one| json!({"sent_id": one.sent_id, "sent": one.sent, "raw": one.raw}))
            .collect();
        // gRefCOCO writes -1 where there is no target.
        let or_none = |ids: &[i64]| if ids.is_empty() { vec![-1] } else { ids.to_vec() };
        Ok(json!({
            "ref_id": reference.ref_id,
            "image_id": reference.image_id,
            "ann_id": or_none(&reference.ann_ids),
            "category_id": or_none(&reference.category_ids),
            "no_target": reference.ann_ids.is_empty(),
            "split": reference.split,
            "file_name": chosen.file_name(reference.image_id)?,
            "sentences": sentences,
        }))
    };
    Ok(Value::Array(refs.iter().map(one).collect::<Result<_>>()?))
}

fn instances(chosen: &Chosen<'_>) -> Result<Value> {
    let images = chosen.images.iter().map(|&id| {
        let record = chosen.dataset.image_record(id)?;
        Ok(json!({"id": id, "file_name": chosen.file_name(id)?, "width": record.width, "height": record.height}))
    });
    let images: Vec<Value> = images.collect::<Result<_>>()?;
    let wanted: std::collections::BTreeSet<i64> =
        chosen.refs.iter().flat_map(|&index| chosen.dataset.refs[index].ann_ids.iter().copied()).collect();
    let (mut annotations, mut n_left_out) = (Vec::new(), 0);
    let mut categories: BTreeMap<i64, String> =
        chosen.dataset.instances.categories.iter().map(|(&id, name)| (id, name.clone())).collect();
    for annotation in chosen.annotations() {
        match annotation_json(chosen, annotation) {
            Ok(value) => annotations.push(value),
            // A ref asks for it.
            Err(error) if wanted.contains(&annotation.id) => return Err(error),
            Err(_) => {
                n_left_out += 1;
                continue;
            }
        }
        // Own objects without a category have a number of their own.
        categories.entry(annotation.category_id).or_insert_with(|| NO_CATEGORY.to_owned());
    }
    if n_left_out > 0 {
        errln!("{n_left_out} objects that no expression asks for are left out: their masks cannot be read");
    }
    let categories: Vec<Value> =
        categories.into_iter().map(|(id, name)| json!({"id": id, "name": name})).collect();
    Ok(json!({"images": images, "annotations": annotations, "categories": categories}))
}

/// Name of the category of an object that had none.
const NO_CATEGORY: &str = "object";

fn annotation_json(chosen: &Chosen<'_>, annotation: &Annotation) -> Result<Value> {
    let mask = chosen.dataset.mask(annotation.id)?;
    let inside = || (0..mask.data.len()).filter(|&at| mask.data[at] != 0);
    let columns = inside().map(|at| at % mask.width);
    let (left, right) = (columns.clone().min().unwrap_or(0), columns.max().map_or(0, |last| last + 1));
    let (top, bottom) = (
        inside().next().map_or(0, |at| at / mask.width),
        inside().next_back().map_or(0, |at| at / mask.width + 1),
    );
    Ok(json!({
        "id": annotation.id,
        "image_id": annotation.image_id,
        "category_id": annotation.category_id,
        "iscrowd": u8::from(annotation.is_crowd),
        "area": mask.area(),
        "bbox": [left, top, right - left, bottom - top],
        "segmentation": segmentation(chosen.dataset, annotation)?,
    }))
}
