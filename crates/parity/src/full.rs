//! The base and large models at full size. `full/README.md` gives the tolerances.

use std::cell::RefCell;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use talent::{Pass, Stage, Talent, Triplet};
use tch::{Device, Kind, Tensor};

use crate::case::Case;
use crate::formula::Formula;
use crate::full_train;
use crate::full_values::{Values, compare_logits, compare_values, observe, outputs};
use crate::json::read_json;
use crate::recorded::list;
use crate::report::{CaseReport, Tolerance};

/// Every file of `full/`.
pub(crate) fn cases(folder: &Path, device: Device) -> Vec<CaseReport> {
    let prepared = || -> Result<(Formula, Vec<String>)> {
        Ok((Formula::new(read_json(&folder.join("formula.json"))?, device)?, list(folder)?))
    };
    let (formula, entries) = match prepared() {
        Ok(prepared) => prepared,
        Err(error) => return vec![CaseReport::failed("full", &format!("{error:#}"))],
    };
    let mut reports = Vec::new();
    let examples = Case::bare("full/formula", |case| {
        let n = formula.check_examples()?;
        case.check(&format!("{n} worked examples"), true);
        Ok(())
    });
    reports.push(examples);
    for entry in &entries {
        let stem = entry.strip_suffix(".json").filter(|stem| *stem != "formula");
        let known = ["README.md", "formula.json"].contains(&entry.as_str())
            || entry
                .strip_suffix(".safetensors")
                .is_some_and(|stem| entries.contains(&format!("{stem}.json")));
        match stem {
            Some(stem) => {
                let report = Case::run(stem, folder, device, |case| one(&formula, case));
                reports.push(report.named(format!("full/{stem}")));
            }
            None if known => {}
            None => {
                reports.push(CaseReport::failed(&format!("full/{entry}"), "nothing here knows this file"))
            }
        }
    }
    reports
}

fn one(formula: &Formula, case: &mut Case) -> Result<()> {
    let config = case.text("/config")?;
    let word_len = case.number("/word_len")? as i64;
    let n = case.number("/batch")? as i64;
    let (network, n_checked) = formula.network(&config, word_len)?;
    case.check(&format!("checksums of {n_checked} tensors"), true);
    let images = formula.images(n)?;
    let sum = f64::try_from(images.to_kind(Kind::Double).sum(None))?;
    case.compare_number("img_sum_f64", sum, case.number("/img_sum_f64")?, Tolerance::OfLargest(1e-9));
    let sentences = |case: &mut Case, name: &str| -> Result<Tensor> {
        let ids = formula.sentences(name, n as usize, word_len)?;
        let expected =
            case.json.get(name).and_then(Value::as_array).with_context(|| format!("no `{name}`"))?;
        let expected = expected.iter().filter_map(Value::as_array).flatten().filter_map(Value::as_i64);
        let same = Vec::<i64>::try_from(ids.view([-1]))?.into_iter().eq(expected);
        case.check(name, same);
        Ok(ids)
    };
    match case.text("/mode")?.as_str() {
        "eval" => {
            let words = sentences(case, "word")?;
            let (values, logits) = infer(&network, &images, &words);
            compare_values(case, &values)?;
            compare_logits(case, &logits)
        }
        "train" => {
            let ids = [sentences(case, "word")?, sentences(case, "pos_word")?, sentences(case, "neg_word")?];
            let ids = Triplet { words: &ids[0], positives: &ids[1], negatives: &ids[2] };
            full_train::compare(formula, &network, &images, &ids, case)
        }
        other => bail!("unknown mode `{other}`"),
    }
}

fn infer(network: &Talent, images: &Tensor, words: &Tensor) -> (Values, Tensor) {
    let seen: RefCell<Values> = RefCell::default();
    let see = |stage: Stage, value: &Tensor| observe(&mut seen.borrow_mut(), stage, value);
    let pass = Pass { observe: &see, ..Pass::EVAL };
    let out = tch::no_grad(|| network.forward(images, words, &pass));
    let mut values = seen.take();
    let logits = out.logits.shallow_clone();
    outputs(&mut values, &out);
    (values, logits)
}
