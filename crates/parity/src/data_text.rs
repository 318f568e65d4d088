//! Expressions: token ids, and the contents of the annotation files.

use std::path::Path;

use anyhow::{Context, Result, bail};
use refcoco::{ClipTokenizer, Dataset, Tokenizer};
use serde_json::Value;

use crate::case::Case;
use crate::json::{as_list, entries, integer, integers, read_json, text};
use crate::recorded::list;

fn compare_ids(case: &mut Case, tokenizer: &ClipTokenizer, text: &str, facts: &Value) -> Result<()> {
    let ids = |key: &str| integers(facts, key).with_context(|| format!("{text:?}"));
    let mut same = tokenizer.encode(text)? == ids("full")?;
    for (key, _) in facts.as_object().into_iter().flatten().filter(|(key, _)| key.starts_with("len")) {
        let word_len = key.trim_start_matches("len").parse().with_context(|| format!("`{key}`"))?;
        same &= tokenizer.encode_padded(text, word_len)? == ids(key)?;
    }
    case.check(&format!("{text:?}"), same);
    Ok(())
}

pub(crate) fn tokens(folder: &Path, case: &mut Case) -> Result<()> {
    let (json, tokenizer) = (read_json(&folder.join("tokens.json"))?, ClipTokenizer::new()?);
    for (text, facts) in json.as_object().context("tokens.json is no object")? {
        compare_ids(case, &tokenizer, text, facts)?;
    }
    Ok(())
}

pub(crate) fn nasty(folder: &Path, case: &mut Case) -> Result<()> {
    let (json, tokenizer) = (read_json(&folder.join("tokens_nasty.json"))?, ClipTokenizer::new()?);
    for facts in as_list(&json, "tokens_nasty.json")? {
        compare_ids(case, &tokenizer, text(facts, "text")?, facts)?;
    }
    Ok(())
}

/// The data set of a name such as `refcoco+_unc` or `refcocog_google`.
pub(crate) fn dataset(name: &str, root: &Path) -> Result<Dataset> {
    let ours = match name {
        "refcoco_unc" => "refcoco",
        "refcoco+_unc" => "refcoco+",
        "refcocog_google" => "refcocog_g",
        "refcocog_umd" => "refcocog_u",
        other => bail!("no data set is called `{other}`"),
    };
    Ok(Dataset::open(ours, root)?)
}

/// The refs files: every ref, in order.
pub(crate) fn refs(folder: &Path, root: &Path, case: &mut Case) -> Result<()> {
    for name in list(&folder.join("refs_json"))? {
        let stem = name.trim_end_matches(".json");
        let (json, dataset) = (read_json(&folder.join("refs_json").join(&name))?, dataset(stem, root)?);
        let recorded = as_list(&json, &name)?;
        case.check(&format!("{stem}: number of refs"), recorded.len() == dataset.refs.len());
        for (ours, theirs) in dataset.refs.iter().zip(recorded) {
            let mut same = ours.ref_id == integer(theirs, "ref_id")?
                && ours.ann_ids == [integer(theirs, "ann_id")?]
                && ours.image_id == integer(theirs, "image_id")?
                && ours.split == text(theirs, "split")?;
            let sentences = entries(theirs, "sentences")?;
            same &= sentences.len() == ours.expressions.len();
            for (expression, sentence) in ours.expressions.iter().zip(sentences) {
                same &= expression.sent_id == integer(sentence, "sent_id")?
                    && expression.sent == text(sentence, "sent")?;
            }
            case.check(&format!("{stem} ref {}", ours.ref_id), same);
        }
    }
    Ok(())
}

/// The conversion script's lists: one per split, with the refs in the order of the refs file. Their box and category number are
/// not used in training or evaluation and are not read here.
pub(crate) fn anns(folder: &Path, root: &Path, case: &mut Case) -> Result<()> {
    for name in list(&folder.join("anns"))? {
        let dataset = dataset(&name, root)?;
        for file in list(&folder.join("anns").join(&name))? {
            let split = file.trim_end_matches(".json");
            let json = read_json(&folder.join("anns").join(&name).join(&file))?;
            let recorded = as_list(&json, &file)?;
            let refs = dataset.split(split)?;
            case.check(&format!("{name} {split}: number of refs"), recorded.len() == refs.len());
            for (index, theirs) in refs.into_iter().zip(recorded) {
                let ours = &dataset.refs[index];
                let image = dataset.image_record(ours.image_id)?;
                let mut same = ours.ref_id == integer(theirs, "segment_id")?
                    && image.file_name == text(theirs, "img_name")?;
                let sentences = entries(theirs, "sentences")?;
                same &= sentences.len() as i64 == integer(theirs, "sentences_num")?
                    && sentences.len() == ours.expressions.len();
                for (expression, sentence) in ours.expressions.iter().zip(sentences) {
                    same &= expression.sent_id == integer(sentence, "sent_id")?
                        && expression.sent.trim() == text(sentence, "sent")?.trim();
                }
                case.check(&format!("{name} {split} ref {}", ours.ref_id), same);
            }
        }
    }
    Ok(())
}
