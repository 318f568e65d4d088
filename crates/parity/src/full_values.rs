//! Compares the values of a full-size model's pass with their recorded samples and statistics.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use talent::{Stage, TalentOutput};
use tch::{Kind, Tensor};

use crate::case::{Case, on_host};
use crate::json::{entries, integers, number};
use crate::network::named_outputs;
use crate::report::{Comparison, Tolerance};

/// Values of a pass with their recorded names.
pub(crate) type Values = Vec<(String, Tensor)>;

pub(crate) fn observe(values: &mut Values, stage: Stage, value: &Tensor) {
    match stage {
        Stage::ImageBlock(index) => values.push((format!("vit_block{index}"), value.detach())),
        // Recorded as [K, batch, T].
        Stage::TextBlock(index) => {
            values.push((format!("txt_block{index}"), value.detach().transpose(0, 1).contiguous()));
        }
        Stage::Patches | Stage::Tokens | Stage::Words | Stage::AdapterPatches(_) => {}
    }
}

pub(crate) fn outputs(values: &mut Values, out: &TalentOutput) {
    // Two names differ from those of the miniature's recordings.
    values.extend(named_outputs(out).into_iter().map(|(name, value)| match name {
        "txt" => ("words".to_owned(), value),
        "neck_tccl_feature" => ("neck_agg".to_owned(), value),
        name => (name.to_owned(), value),
    }));
    values.push(("logits".to_owned(), out.logits.detach()));
}

/// Compares samples, mean, standard deviation and norm of every recorded tensor with the official float64 run.
pub(crate) fn compare_values(case: &mut Case, values: &Values) -> Result<()> {
    let facts = case.json.get("tensors").and_then(Value::as_object).cloned().context("no `tensors`")?;
    for (name, facts) in &facts {
        let value = values.iter().find(|(known, _)| known == name);
        let (_, value) = value.with_context(|| format!("nothing here computes `{name}`"))?;
        let number = |key: &str| number(facts, key).with_context(|| name.clone());
        let numel: i64 = integers(facts, "shape")?.into_iter().product();
        ensure!(numel as usize == value.numel(), "`{name}` has {} entries, {numel} recorded", value.numel());
        let flat = on_host(value).to_kind(Kind::Double).contiguous().view([-1]);
        let noise = number("noise_f32_f64")?.max(number("noise_f32_f32")?);
        let error = worst(&sample_errors(&flat, facts).with_context(|| name.clone())?);
        case.record(Comparison::new(name, error, number("max_abs")?, Tolerance::Absolute(4.0 * noise)));

        let norm = f64::try_from(flat.norm())?;
        case.compare_number(&format!("{name}: norm"), norm, number("l2")?, Tolerance::OfLargest(5e-6));
        let mean = f64::try_from(flat.mean(None))?;
        let std = f64::try_from(flat.std(false))?;
        let moments = Tolerance::Absolute(5e-6 * (1.0 + number("std")?));
        case.compare_number(&format!("{name}: mean"), mean, number("mean")?, moments);
        case.compare_number(&format!("{name}: deviation"), std, number("std")?, moments);
    }
    Ok(())
}

/// Absolute errors of the sampled entries.
pub(crate) fn sample_errors(flat: &Tensor, facts: &Value) -> Result<Vec<f64>> {
    let index = integers(facts, "index")?;
    let expected: Vec<f64> = entries(facts, "f64")?.iter().filter_map(Value::as_f64).collect();
    ensure!(index.len() == expected.len() && !index.is_empty(), "indices and samples do not match");
    let found = flat.index_select(0, &Tensor::from_slice(&index));
    Ok(Vec::<f64>::try_from((found - Tensor::from_slice(&expected)).abs())?)
}

/// The largest error; NaN counts as the largest.
pub(crate) fn worst(errors: &[f64]) -> f64 {
    errors.iter().copied().max_by(f64::total_cmp).unwrap_or(0.0)
}

/// Compares all logits with the official float64 run, and with the float32 run.
pub(crate) fn compare_logits(case: &mut Case, logits: &Tensor) -> Result<()> {
    let noise = |key: &str| case.number(&format!("/tensors/logits/{key}"));
    let bound = 4.0 * noise("noise_f32_f64")?.max(noise("noise_f32_f32")?);
    let expected = case.input("logits.f64")?;
    case.compare_with("all logits", logits, &expected, Tolerance::Absolute(bound));
    // The official float32 run differs from the float64 run by its own rounding noise, hence twice the bound.
    let single = case.input("logits")?;
    case.compare_with("all logits, float32", logits, &single, Tolerance::Absolute(2.0 * bound));
    Ok(())
}
