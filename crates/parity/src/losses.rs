//! Loss functions with their input gradients.

use anyhow::{Result, bail};
use tch::{Kind, Tensor};
use tlm_losses::{Cpcl, Segmentation, Tccl, TcclConfig};

use crate::case::Case;
use crate::report::Tolerance;
use crate::training::{TERM, double};

/// Bound of float32 input gradients. Their entries may be far below 1, so it is relative to the largest.
const GRADIENT: Tolerance = Tolerance::OfLargest(2e-4);

/// Values of a loss: named scalars (the loss first, then its parts), and named tensors that must match exactly.
type Values = (Vec<(String, Tensor)>, Vec<(String, Tensor)>);

pub(crate) fn case(case: &mut Case) -> Result<()> {
    for (kind, suffix, term, gradient) in
        [(Kind::Float, "", TERM, GRADIENT), (Kind::Double, ".f64", double(case.device), double(case.device))]
    {
        if !case.has(&format!("loss{suffix}")) {
            continue;
        }
        let names: Vec<String> = case
            .names()
            .into_iter()
            .filter_map(|name| {
                name.strip_prefix("grad_").filter(|name| !name.ends_with(".f64")).map(str::to_owned)
            })
            .collect();
        let mut inputs = Vec::new();
        for name in &names {
            inputs.push((name.as_str(), case.input(name)?.to_kind(kind).copy().set_requires_grad(true)));
        }
        let (values, exact) = evaluate(case, &inputs, kind)?;
        values[0].1.backward();
        for (name, value) in &values {
            case.compare(&format!("{name}{suffix}"), value, term)?;
            let expected = case.number(&format!("/scalars/{name}{suffix}"))?;
            case.compare_number(
                &format!("{name}{suffix} in the JSON"),
                f64::try_from(value)?,
                expected,
                term,
            );
        }
        for (name, value) in &exact {
            case.compare(name, value, Tolerance::Exact)?;
        }
        for (name, input) in &inputs {
            let found = input.grad();
            // An undefined gradient counts as zero.
            let found = if found.defined() { found } else { input.zeros_like() };
            case.compare(&format!("grad_{name}{suffix}"), &found, gradient)?;
        }
    }
    Ok(())
}

fn evaluate(case: &mut Case, inputs: &[(&str, Tensor)], kind: Kind) -> Result<Values> {
    let input = |name: &str| -> Result<&Tensor> {
        let found = inputs.iter().find(|(known, _)| *known == name);
        found.map(|(_, tensor)| tensor).ok_or_else(|| anyhow::anyhow!("the recording lacks grad_{name}"))
    };
    if case.name.starts_with("loss_seg_") {
        let mask = case.input("mask")?;
        let loss = Segmentation::default().loss(input("pred")?, &mask).total();
        return Ok((vec![("loss".into(), loss)], vec![]));
    }
    if case.name.starts_with("loss_tccl_") {
        let proto = input("visual_proto")?;
        let n = proto.size()[0];
        let valid = match case.has("valid") {
            true => case.input("valid")?.to_kind(kind),
            false => Tensor::ones([n], (kind, case.device)),
        };
        let divisor = case.number("/config/divisor")?;
        // The pooled vector is passed as a 1x1 map.
        let map = proto.view([n, -1, 1, 1]);
        let loss = Tccl::new(TcclConfig { divisor })
            .loss(&map, input("pos_state")?, input("neg_state")?, &valid, None)
            .loss;
        return Ok((vec![("loss".into(), loss)], vec![]));
    }
    if case.name.starts_with("loss_affinity_") {
        let text = case.input("txt")?.to_kind(kind).squeeze_dim(0);
        let (mut parts, mut exact) = (Vec::new(), Vec::new());
        for (level, position) in (3..6).zip(0..) {
            let out = Cpcl::default().loss(input(&format!("fq{level}"))?, &text);
            let pointer = format!("/scalars/rows_passing/{position}");
            case.compare_rows(&format!("rows of level {level}"), &out.partners, &pointer)?;
            parts.push((format!("level{level}"), out.loss));
            exact.push((format!("lv_col{level}"), out.partners.squeeze_dim(2)));
        }
        let loss = parts.iter().map(|(_, part)| part).sum::<Tensor>() / 3.0;
        // A level without a partner has no autograd graph. Adding the inputs times 0 gives the sum one for `backward`.
        let anchored = inputs.iter().map(|(_, tensor)| tensor.sum(None) * 0.0).sum::<Tensor>();
        let mut values = vec![("loss".to_owned(), loss + anchored)];
        values.extend(parts);
        return Ok((values, exact));
    }
    bail!("nothing here knows this loss")
}
