//! Encoders by themselves, with the weights and the `config.json` of the reference library: `encoders/NAME/`.

use std::cell::RefCell;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use backbone::guest::nobody;
use backbone::{
    EncoderSpec, IMAGE_ENCODER, IMAGE_ENCODERS, ImageEncoder, Registered, Stage, TEXT_ENCODER, TEXT_ENCODERS,
    TextEncoder, unobserved,
};
use serde_json::Value;
use talent::LORA;
use talent::weights::{PeftFolder, Strictness, fill_encoder};
use tch::{Device, Kind, Tensor};
use torch_ext::{Group, LowRankRule, LowRankUpdate, ParamPath, Store};
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
        "lora" => {
            files.extend(["adapter_config.json", "adapter_model.safetensors"]);
            lora(folder, &config, case)?;
        }
        other => bail!("case.json: nothing here knows the kind `{other}`"),
    }
    if kind != "lora" {
        files.push("forward64.safetensors");
    }
    let stray: Vec<String> =
        list(folder)?.into_iter().filter(|name| !files.contains(&name.as_str())).collect();
    ensure!(stray.is_empty(), "recorded but not compared: {}", stray.join(", "));
    Ok(())
}

/// Bound of float64 values, relative to the largest. The reference computes some steps in float32 in every precision: DINOv3's
/// rotary positions, and the softmax of CLIP's and SigLIP's attention, whose last digits depend on the CPU's instruction set.
fn exact(config: &Value) -> f64 {
    let model = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
    match model.starts_with("dinov3") || model.starts_with("siglip") || config.get("rope_theta").is_some() {
        true => 1e-6,
        false if model.starts_with("clip") => 3e-6,
        false => 1e-9,
    }
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

/// Refuses sizes that no encoder has, so that a wrong file ends in a message.
fn ensure_plausible(sizes: &[(&str, i64)]) -> Result<(), String> {
    let odd = sizes.iter().find(|(name, size)| {
        let most = match *name {
            "number of blocks" => 1000,
            "number of positions along a side" => 2000,
            _ => 1_000_000,
        };
        !(1..=most).contains(size)
    });
    odd.map_or(Ok(()), |(name, size)| Err(format!("config.json: the {name} is {size}")))
}

fn ensure_heads(width: i64, n_heads: i64) -> Result<(), String> {
    match width % n_heads {
        0 => Ok(()),
        _ => Err(format!(
            "config.json: the hidden width, {width}, is no multiple of the number of heads, {n_heads}"
        )),
    }
}

/// The image encoder that a `config.json` describes, filled from the weights beside it.
fn image_encoder(folder: &Path, config: &Value, kind: Kind) -> Result<Box<dyn ImageEncoder>> {
    Ok(tuned_image_encoder(folder, config, kind, &|_| Ok(None))?.0)
}

/// As [`image_encoder`], with the low-rank updates of a rule that depends on the encoder's specification.
fn tuned_image_encoder(
    folder: &Path,
    config: &Value,
    kind: Kind,
    rule: &FindRule,
) -> Result<(Box<dyn ImageEncoder>, Store)> {
    let (family, sizes) = described(IMAGE_ENCODERS, |family| {
        let sizes = family.described(&Settings::new(config))?;
        ensure_plausible(&[
            ("hidden width", sizes.width),
            ("number of blocks", sizes.depth),
            ("number of heads", sizes.n_heads),
            ("patch size", sizes.patch_size),
            ("number of positions along a side", sizes.position_grid),
            ("number of registers", sizes.n_registers + 1),
            ("width of the MLP", family.mlp_width(&sizes)),
        ])?;
        ensure_heads(sizes.width, sizes.n_heads)?;
        sizes.variant.check(&family.published())?;
        family.check(&sizes).map(|()| sizes)
    })?;
    let (store, spec) = (Store::new(Device::Cpu, kind), family.spec(&sizes));
    let path = tuned_path(&store, IMAGE_ENCODER, &spec.without_input(), rule)?;
    let encoder = family.build(&path, &sizes, &mut |_, _| {});
    fill(&store, IMAGE_ENCODER, &spec.without_input(), folder)?;
    Ok((encoder, store))
}

/// The rule for the low-rank updates of an encoder; none for no updates.
type FindRule<'a> = dyn Fn(&EncoderSpec<()>) -> Result<Option<LowRankRule>> + 'a;

fn tuned_path(store: &Store, group: Group, spec: &EncoderSpec<()>, rule: &FindRule) -> Result<ParamPath> {
    let path = store.root().in_group(group) / spec.prefix;
    Ok(match rule(spec)? {
        Some(rule) => path.with_low_rank(rule),
        None => path,
    })
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
    let mut pixels: Vec<Tensor> = Vec::new();
    for (kind, name, tolerance) in precisions(exact(config)) {
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

fn text_encoder(folder: &Path, config: &Value, kind: Kind) -> Result<Box<dyn TextEncoder>> {
    Ok(tuned_text_encoder(folder, config, kind, &|_| Ok(None))?.0)
}

/// As [`text_encoder`], with the low-rank updates of a rule that depends on the encoder's specification.
fn tuned_text_encoder(
    folder: &Path,
    config: &Value,
    kind: Kind,
    rule: &FindRule,
) -> Result<(Box<dyn TextEncoder>, Store)> {
    let (family, sizes) = described(TEXT_ENCODERS, |family| {
        let sizes = family.described(&Settings::new(config))?;
        ensure_plausible(&[
            ("hidden width", sizes.width),
            ("number of blocks", sizes.depth),
            ("number of heads", sizes.n_heads),
            ("vocabulary", sizes.vocabulary),
            ("number of positions", sizes.context),
            ("width of the sentence vector", sizes.state_width),
            ("width of the MLP", sizes.mlp_width()),
        ])?;
        ensure_heads(sizes.width, sizes.n_heads)?;
        sizes.variant.check(&family.published()).map(|()| sizes)
    })?;
    let (store, spec) = (Store::new(Device::Cpu, kind), family.spec(&sizes));
    let path = tuned_path(&store, TEXT_ENCODER, &spec.without_input(), rule)?;
    let encoder = family.build(&path, &sizes, &mut |_, _| {});
    fill(&store, TEXT_ENCODER, &spec.without_input(), folder)?;
    Ok((encoder, store))
}

fn text(folder: &Path, config: &Value, case: &mut Case) -> Result<()> {
    let mut ids = None;
    for (kind, name, tolerance) in precisions(exact(config)) {
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

/// An encoder with LoRA: output, loss, gradients of all matrices, and the output after merging.
fn lora(folder: &Path, config: &Value, case: &mut Case) -> Result<()> {
    let name = "forward.safetensors";
    let mut recorded = read_tensors(&folder.join(name), Device::Cpu)?;
    let exact = Tolerance::OfLargest(exact(config));
    let inputs = ["pixel_values", "input_ids"].map(|name| recorded.remove(name));
    let passes = [
        (Kind::Float, "", Tolerance::Scaled(2e-5), Tolerance::OfLargest(4e-4)),
        (Kind::Double, "64", exact, exact),
    ];
    for (kind, mark, of_values, of_gradients) in passes {
        let (output, store, names) = tuned_encoder(folder, config, kind, &inputs)?;
        let out = output();
        let ramp = Tensor::linspace(-1, 1, out.numel() as i64, (Kind::Double, Device::Cpu)).to_kind(kind);
        let loss = (&out * ramp.view_as(&out)).sum(None);
        loss.backward();
        let found = vec![(format!("output{mark}"), out), (format!("loss{mark}"), loss)];
        compare_all(case, name, &mut recorded, found, of_values)?;
        let mut found = Vec::new();
        for [in_file, in_store] in names {
            let matrix = store.get(&in_store).with_context(|| format!("`{in_store}` is not registered"))?;
            found.push((format!("grad{mark}.{in_file}"), matrix.grad()));
        }
        compare_all(case, name, &mut recorded, found, of_gradients)?;
        store.low_rank_updates().iter().for_each(LowRankUpdate::merge);
        // Recorded in float32 alone.
        if kind == Kind::Float {
            let merged = tch::no_grad(output);
            compare_all(case, name, &mut recorded, vec![("merged_output".to_owned(), merged)], of_values)?;
        }
    }
    crate::case::nothing_left(&recorded).context(name)
}

/// An encoder with the LoRA matrices beside it: a pass over the recorded input that gives the last hidden state, the parameters, and
/// the matrices' names in the file and in the store.
#[expect(clippy::type_complexity, reason = "three results of one step")]
fn tuned_encoder<'a>(
    folder: &Path,
    config: &Value,
    kind: Kind,
    [pixels, ids]: &'a [Option<Tensor>; 2],
) -> Result<(Box<dyn Fn() -> Tensor + 'a>, Store, Vec<[String; 2]>)> {
    let opened: RefCell<Option<PeftFolder>> = RefCell::default();
    let rule = |spec: &EncoderSpec<()>| {
        let peft = PeftFolder::open(folder, spec)?;
        let rule = peft.rule()?;
        opened.replace(Some(peft));
        Ok(Some(rule))
    };
    let (pass, store): (Box<dyn Fn() -> Tensor>, Store) = match (pixels, ids) {
        (Some(pixels), None) => {
            let (encoder, store) = tuned_image_encoder(folder, config, kind, &rule)?;
            let images = pixels.to_kind(kind);
            let pass = move || {
                let last = encoder.forward(&images, &[], &nobody, &unobserved).last;
                encoder.normalise(&last)
            };
            (Box::new(pass), store)
        }
        (None, Some(ids)) => {
            let (encoder, store) = tuned_text_encoder(folder, config, kind, &rule)?;
            (Box::new(move || encoder.forward(ids, &nobody, &unobserved).words), store)
        }
        _ => bail!("forward.safetensors: neither `pixel_values` nor `input_ids`, or both"),
    };
    store.set_trainable(|_, entry| entry.group == LORA);
    let names = opened.into_inner().context("no rule was asked for")?.fill(&store)?;
    Ok((pass, store, names))
}
