//! Encoders by themselves, with the weights and the `config.json` of the reference library: `encoders/NAME/`.

use std::cell::RefCell;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use backbone::guest::nobody;
use backbone::{
    ClipText, EncoderSpec, IMAGE_ENCODER, IMAGE_ENCODERS, ImageEncoder, Registered, SiglipText, Stage,
    TEXT_ENCODER, TextEncoder, TextFamily,
};
use serde_json::Value;
use talent::weights::{Strictness, fill_encoder};
use tch::{Device, Kind, Tensor};
use torch_ext::{Group, Store};
use weight_files::{Settings, WeightFile};

use crate::case::{Case, read_tensors};
use crate::json::read_json;
use crate::recorded::list;
use crate::report::{CaseReport, Tolerance};

/// Every folder of `encoders/`.
pub(crate) fn cases(folder: &Path) -> Vec<CaseReport> {
    let entries = match list(folder) {
        Ok(entries) => entries,
        Err(error) => return vec![CaseReport::failed("encoders", &format!("{error:#}"))],
    };
    let entries = entries.into_iter().filter(|entry| entry != "README.md");
    entries
        .map(|entry| {
            let label = format!("encoders/{entry}");
            Case::bare(&label, |case| one(&folder.join(&entry), case))
        })
        .collect()
}

/// Compares one folder: what its `case.json` says it is.
fn one(folder: &Path, case: &mut Case) -> Result<()> {
    let about = read_json(&folder.join("case.json"))?;
    let config = read_json(&folder.join("config.json"))?;
    let kind = about.get("kind").and_then(Value::as_str).context("case.json: no `kind`")?;
    let mut files = vec!["case.json", "config.json", "model.safetensors", "forward.safetensors"];
    match kind {
        "image" => image(folder, &about, &config, case)?,
        "text" => text(folder, &config, case)?,
        other => bail!("case.json: nothing here knows the kind `{other}`"),
    }
    files.push("forward64.safetensors");
    let stray: Vec<String> =
        list(folder)?.into_iter().filter(|name| !files.contains(&name.as_str())).collect();
    ensure!(stray.is_empty(), "recorded but not compared: {}", stray.join(", "));
    Ok(())
}

/// Precisions that are recorded: the file, and the bound of its values.
fn precisions(exact: f64) -> [(Kind, &'static str, Tolerance); 2] {
    [
        (Kind::Float, "forward.safetensors", Tolerance::Scaled(2e-5)),
        (Kind::Double, "forward64.safetensors", Tolerance::OfLargest(exact)),
    ]
}

fn fill(store: &Store, group: Group, spec: &EncoderSpec<()>, folder: &Path) -> Result<()> {
    let mut file = WeightFile::open(&folder.join("model.safetensors"))?;
    fill_encoder(store, group, spec, &mut file, &Strictness::default())?;
    Ok(())
}

/// The family that a `config.json` describes, with the sizes it says.
fn described<F: Registered + ?Sized, S>(
    families: &[&'static F],
    sizes: impl Fn(&F) -> Result<S, String>,
) -> Result<(&'static F, S)> {
    let mut refused = Vec::new();
    for &family in families {
        match sizes(family) {
            Ok(sizes) => return Ok((family, sizes)),
            Err(what) => refused.push(format!("{}: {what}", family.registered_name())),
        }
    }
    bail!("no {} encoder is like this: {}", F::ENCODES, refused.join("; "))
}

/// The image encoder that a `config.json` describes, filled from the weights beside it.
fn image_encoder(folder: &Path, config: &Value, kind: Kind) -> Result<Box<dyn ImageEncoder>> {
    let (family, sizes) = described(IMAGE_ENCODERS, |family| family.described(&Settings::new(config)))?;
    let (store, spec) = (Store::new(Device::Cpu, kind), family.spec(&sizes));
    let path = store.root().in_group(IMAGE_ENCODER) / spec.prefix;
    let encoder = family.build(&path, &sizes, &mut |_, _| {});
    fill(&store, IMAGE_ENCODER, &spec.without_input(), folder)?;
    Ok(encoder)
}

/// Number of a recorded hidden state; none for what is not recorded.
fn hidden_state(stage: Stage) -> Option<usize> {
    match stage {
        Stage::Patches => None,
        Stage::Tokens => Some(0),
        Stage::Block(index) => Some(index + 1),
    }
}

fn image(folder: &Path, about: &Value, config: &Value, case: &mut Case) -> Result<()> {
    let sizes = about.get("sizes").and_then(Value::as_array).context("case.json: no `sizes`")?;
    // Sines and cosines of rotary positions are computed in float32.
    let is_rotary = config.get("rope_theta").is_some();
    let mut pixels: Vec<Tensor> = Vec::new();
    for (kind, name, tolerance) in precisions(if is_rotary { 1e-6 } else { 1e-9 }) {
        let mut recorded = read_tensors(&folder.join(name), Device::Cpu)?;
        let encoder = image_encoder(folder, config, kind)?;
        for number in 0..sizes.len() {
            // The inputs are recorded once.
            if let Some(images) = recorded.remove(&format!("{number}.pixel_values")) {
                pixels.push(images);
            }
            let images = pixels.get(number).context("an input without pixels")?.to_kind(kind);
            let seen: RefCell<Vec<(String, Tensor)>> = RefCell::default();
            let observe = |stage: Stage, value: &Tensor| {
                let Some(index) = hidden_state(stage) else { return };
                seen.borrow_mut().push((format!("{number}.hidden.{index}"), value.shallow_clone()));
            };
            let last = tch::no_grad(|| {
                let features = encoder.forward(&images, &[], &nobody, &observe);
                encoder.normalise(&features.last)
            });
            seen.borrow_mut().push((format!("{number}.last_hidden_state"), last));
            compare_all(case, name, &mut recorded, seen.take(), tolerance)?;
        }
        crate::case::nothing_left(&recorded).context(name)?;
    }
    Ok(())
}

/// Compares values with the recorded ones of the same names, and takes these out.
fn compare_all(
    case: &mut Case,
    file: &str,
    recorded: &mut std::collections::BTreeMap<String, Tensor>,
    found: Vec<(String, Tensor)>,
    tolerance: Tolerance,
) -> Result<()> {
    for (name, value) in found {
        let expected = recorded.remove(&name).with_context(|| format!("{file} lacks `{name}`"))?;
        case.compare_with(&format!("{file}: {name}"), &value, &expected, tolerance);
    }
    Ok(())
}

/// The text encoders that a `config.json` may describe.
static TEXT_FAMILIES: [&dyn TextFamily; 2] = [&ClipText, &SiglipText];

fn text_encoder(folder: &Path, config: &Value, kind: Kind) -> Result<Box<dyn TextEncoder>> {
    let (family, sizes) = described(&TEXT_FAMILIES, |family| family.described(&Settings::new(config)))?;
    let (store, spec) = (Store::new(Device::Cpu, kind), family.spec(&sizes));
    let path = store.root().in_group(TEXT_ENCODER) / spec.prefix;
    let encoder = family.build(&path, &sizes, &mut |_, _| {});
    fill(&store, TEXT_ENCODER, &spec.without_input(), folder)?;
    Ok(encoder)
}

fn text(folder: &Path, config: &Value, case: &mut Case) -> Result<()> {
    let mut ids = None;
    for (kind, name, tolerance) in precisions(1e-9) {
        let mut recorded = read_tensors(&folder.join(name), Device::Cpu)?;
        if let Some(found) = recorded.remove("input_ids") {
            ids = Some(found);
        }
        let ids = ids.as_ref().context("no `input_ids`")?;
        let encoder = text_encoder(folder, config, kind)?;
        let seen: RefCell<Vec<(String, Tensor)>> = RefCell::default();
        let observe = |stage: Stage, value: &Tensor| {
            let Some(index) = hidden_state(stage) else { return };
            seen.borrow_mut().push((format!("hidden.{index}"), value.shallow_clone()));
        };
        let out = tch::no_grad(|| encoder.forward(ids, &nobody, &observe));
        let mut found = seen.take();
        found.extend([("last_hidden_state".to_owned(), out.words), ("pooled".to_owned(), out.state)]);
        compare_all(case, name, &mut recorded, found, tolerance)?;
        crate::case::nothing_left(&recorded).context(name)?;
    }
    Ok(())
}
