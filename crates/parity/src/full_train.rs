//! One training pass of a full-size model.

use std::cell::RefCell;

use anyhow::{Context, Result};
use serde_json::Value;
use talent::{Pass, Stage, Talent, Triplet};
use tch::{Kind, Tensor};

use crate::case::{Case, on_host};
use crate::formula::Formula;
use crate::full_values::{Values, compare_logits, compare_values, observe, outputs, sample_errors, worst};
use crate::json::number;
use crate::report::{Comparison, Tolerance};
use crate::training;

/// Tolerance of running statistics.
const STATISTICS: Tolerance = Tolerance::Absolute(6e-6);
/// Tolerance of each loss term.
const TERM: Tolerance = Tolerance::Absolute(2e-6);

pub(crate) fn compare(
    formula: &Formula,
    network: &Talent,
    images: &Tensor,
    ids: &Triplet<'_>,
    case: &mut Case,
) -> Result<()> {
    let (mask, valid) = (formula.masks()?, formula.valid()?);
    inputs(case, &mask, &valid)?;
    let seen: RefCell<Values> = RefCell::default();
    let see = |stage: Stage, value: &Tensor| observe(&mut seen.borrow_mut(), stage, value);
    let out = network.forward(images, *ids, &Pass { observe: &see, ..Pass::TRAIN });
    let mut values = seen.take();
    outputs(&mut values, &out);
    compare_values(case, &values)?;
    drop(values);
    compare_logits(case, &out.logits)?;

    let terms = training::terms(&out, &mask, &valid)?;
    for (name, value) in &terms.named {
        let expected = case.number(&format!("/terms/{name}/f64"))?;
        case.compare_number(name, f64::try_from(value)?, expected, TERM);
    }
    for (level, partners) in terms.partners.iter().enumerate() {
        case.compare(&format!("lv_col{}", level + 3), partners, Tolerance::Exact)?;
        let rows = partners.ge(0).to_kind(Kind::Double).sum_dim_intlist([1].as_slice(), false, None);
        for (sample, found) in Vec::<f64>::try_from(rows)?.into_iter().enumerate() {
            let expected = case.number(&format!("/affinity_levels/{}/rows_passing/{sample}", level + 3))?;
            let label = format!("rows of level {}, sample {sample}", level + 3);
            case.compare_number(&label, found, expected, Tolerance::Exact);
        }
    }
    terms.total.backward();
    statistics(network, case)?;
    gradients(network, case)
}

fn inputs(case: &mut Case, mask: &Tensor, valid: &Tensor) -> Result<()> {
    let mask = mask.to_kind(Kind::Double);
    let fractional = mask.gt(0).logical_and(&mask.lt(1)).to_kind(Kind::Double);
    for (name, values) in [("mask_sum_f64", &mask), ("mask_fractional_pixels", &fractional)] {
        let sums = values.flatten(1, 3).sum_dim_intlist([1].as_slice(), false, None);
        for (sample, found) in Vec::<f64>::try_from(sums)?.into_iter().enumerate() {
            let expected = case.number(&format!("/{name}/{sample}"))?;
            case.compare_number(&format!("{name} {sample}"), found, expected, Tolerance::Exact);
        }
    }
    for (sample, found) in Vec::<f32>::try_from(valid)?.into_iter().enumerate() {
        let expected = case.number(&format!("/tccl_valid/{sample}"))?;
        case.compare_number("tccl_valid", f64::from(found), expected, Tolerance::Exact);
    }
    Ok(())
}

fn statistics(network: &Talent, case: &mut Case) -> Result<()> {
    let recorded = case.json.get("batch_norm_after_step").and_then(Value::as_object).cloned();
    let recorded = recorded.context("no `batch_norm_after_step`")?;
    for (name, facts) in &recorded {
        let value = network.store().get(name).with_context(|| format!("there is no buffer `{name}`"))?;
        let values = Vec::<f64>::try_from(value.to_kind(Kind::Double).contiguous().view([-1]))?;
        let number = |key: &str| number(facts, key).with_context(|| name.clone());
        let norm = values.iter().map(|value| value * value).sum::<f64>().sqrt();
        case.compare_number(&format!("{name}: norm"), norm, number("l2")?, Tolerance::Scaled(6e-6));
        case.compare_number(&format!("{name}: first"), values[0], number("f64_first")?, STATISTICS);
        case.compare_number(
            &format!("{name}: last"),
            values[values.len() - 1],
            number("f64_last")?,
            STATISTICS,
        );
    }
    Ok(())
}

/// Gradients agree less tightly than values at this size: rounding moves a few of the millions of ReLU inputs across
/// zero, and two correct float32 runs differ as much from each other.
fn gradients(network: &Talent, case: &mut Case) -> Result<()> {
    let recorded =
        case.json.get("gradients").and_then(Value::as_object).cloned().context("no `gradients`")?;
    let trainable = network.trainable();
    case.compare_number("gradients", trainable.len() as f64, recorded.len() as f64, Tolerance::Exact);
    let (mut norm_errors, mut relative_errors, mut total) = (Vec::new(), Vec::new(), 0.0);
    for (name, parameter) in &trainable {
        let facts = recorded.get(name).with_context(|| format!("no gradient of `{name}` is recorded"))?;
        let number = |key: &str| number(facts, key).with_context(|| name.clone());
        let flag = |key: &str| {
            facts.get(key).is_some_and(|value| value.as_bool() != Some(false) && !value.is_null())
        };
        let flat = on_host(&parameter.grad()).to_kind(Kind::Double).contiguous().view([-1]);
        let norm = f64::try_from(flat.norm())?;
        total += norm * norm;
        if flag("structurally_zero") {
            let largest = f64::try_from(flat.abs().max())?;
            case.record(Comparison::new(name, largest, 1.0, Tolerance::Absolute(1e-6)));
            continue;
        }
        let largest = number("max_abs")?;
        if flag("zero_slice") {
            let third = flat.size()[0] / 3;
            let keys = f64::try_from(flat.narrow(0, third, third).abs().max())?;
            let label = format!("{name}: key third");
            case.record(Comparison::new(&label, keys, largest, Tolerance::OfLargest(1e-4)));
        }
        let norm_error = (norm / number("l2")? - 1.0).abs();
        case.record(Comparison::new(&format!("{name}: norm"), norm_error, 1.0, Tolerance::Absolute(3e-2)));
        norm_errors.push(norm_error);
        let errors = sample_errors(&flat, facts).with_context(|| name.clone())?;
        case.record(Comparison::new(name, worst(&errors), largest, Tolerance::OfLargest(4e-2)));
        relative_errors.extend(errors.into_iter().map(|error| error / largest));
    }
    let share = |errors: &mut Vec<f64>, share: f64| {
        errors.sort_by(f64::total_cmp);
        errors[((errors.len() - 1) as f64 * share) as usize]
    };
    // On a GPU, cuDNN may choose Winograd or FFT convolutions, whose float32 rounding errors are a few times larger: measured
    // 2.2 times these bounds on an H200.
    let more = if case.device.is_cuda() { 4.0 } else { 1.0 };
    let quantiles = [
        ("gradient norms, 95 % of the parameters", share(&mut norm_errors, 0.95), more * 2e-3),
        ("gradient samples, 95 %", share(&mut relative_errors, 0.95), more * 5e-3),
        ("gradient samples, median", share(&mut relative_errors, 0.5), more * 5e-4),
    ];
    for (label, error, bound) in quantiles {
        case.record(Comparison::new(label, error, 1.0, Tolerance::Absolute(bound)));
    }
    let expected = case.number("/grad_l2_total/f64")?;
    case.compare_number("total gradient norm", total.sqrt(), expected, Tolerance::OfLargest(5e-4));
    Ok(())
}
