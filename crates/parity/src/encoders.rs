//! The frozen encoders in Hugging Face format.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use backbone::guest::nobody;
use backbone::{PositionRule, Stage};
use serde_json::Value;
use talent::weights::{Encoder, Strictness, load_encoder};
use talent::{ModelConfig, Talent};
use tch::{Device, Kind, Tensor};
use weight_files::{Element, Step, WeightFile};

use crate::case::Case;
use crate::json::read_json;
use crate::recorded::{Recorded, list};
use crate::report::{CaseReport, Tolerance};

const IMAGE: Tolerance = Tolerance::Absolute(2e-5);
const TEXT: Tolerance = Tolerance::Absolute(1e-5);

/// Every file and folder of `hf/`.
pub(crate) fn cases(recorded: &Recorded, folder: &Path) -> Vec<CaseReport> {
    let entries = match list(folder) {
        Ok(entries) => entries,
        Err(error) => return vec![CaseReport::failed("hf", &format!("{error:#}"))],
    };
    let mut reports = Vec::new();
    for entry in entries {
        let path = folder.join(&entry);
        let label = crate::shown(recorded.path(), &path);
        let stem = entry.split('.').next().unwrap_or(&entry);
        let report = match entry.as_str() {
            "README.md" => continue,
            "dinov2_forward.json" => {
                Case::run(stem, folder, Device::Cpu, |case| image_forward(recorded, folder, case))
                    .named(label)
            }
            "clip_text_forward.json" => {
                Case::run(stem, folder, Device::Cpu, |case| text_forward(recorded, folder, case)).named(label)
            }
            "dinov2_forward.safetensors" | "clip_text_forward.safetensors" => continue,
            // Belongs to the weights of the same name, which read it.
            name if name.ends_with(".config.json") => continue,
            name if name.starts_with("mapping_") => {
                Case::bare(&label, |case| mapping(recorded, &path, folder, case))
            }
            _ => Case::bare(&label, |case| weights(recorded, &path, case)),
        };
        reports.push(report);
    }
    reports
}

/// Which encoder of a network a file holds.
pub(crate) fn encoder_in(cfg: &ModelConfig, path: &Path) -> Result<Encoder> {
    let file = WeightFile::open(path)?;
    let image = Encoder::Image.plan(cfg, &file);
    let text = Encoder::Text.plan(cfg, &file);
    match (image, text) {
        (Ok(_), Err(_)) => Ok(Encoder::Image),
        (Err(_), Ok(_)) => Ok(Encoder::Text),
        (Ok(_), Ok(_)) => bail!("it holds both encoders"),
        (Err(error), Err(_)) => Err(error.into()),
    }
}

/// A file's weights, compared with the recorded initial values. They must be equal, after rounding to float16 if the whole file
/// is in float16.
pub(crate) fn weights(recorded: &Recorded, path: &Path, case: &mut Case) -> Result<()> {
    let encoder = encoder_in(&recorded.model, path)?;
    let network = recorded.blank_network()?;
    let report = load_encoder(&network, encoder, path, &Strictness::default())?;
    let half = WeightFile::open(path)?.tensors().all(|(_, info)| info.element != Element::F32);
    for (name, entry) in network.store().entries() {
        if entry.group.name == encoder.group().name {
            let expected = recorded.init()?.get(&name).context("model_init is incomplete")?;
            let expected = match report.tolerated.contains(&name) {
                // Not in the file: the network keeps its zeros.
                true => expected.zeros_like(),
                false if half => expected.to_kind(Kind::Half),
                false => expected.shallow_clone(),
            };
            case.compare_with(&name, &entry.tensor, &expected, Tolerance::Exact);
        }
    }
    Ok(())
}

/// Compares this project's mapping of tensor names with the recorded mapping.
fn mapping(recorded: &Recorded, path: &Path, folder: &Path, case: &mut Case) -> Result<()> {
    let rows = read_json(path)?;
    let rows = rows.as_array().context("the mapping is no list")?;
    let (encoder, file) = if path.ends_with("mapping_dinov2.json") {
        (Encoder::Image, "dinov2_hf.safetensors")
    } else {
        (Encoder::Text, "clip_hf.safetensors")
    };
    let plan = encoder.plan(&recorded.model, &WeightFile::open(&folder.join(file))?)?;
    for row in rows {
        let text = |key: &str| row.get(key).and_then(Value::as_str);
        let name = text("hf").context("a row without `hf`")?;
        let part = plan.parts.iter().find(|part| part.source == name);
        if text("tower").is_some_and(|tower| tower != "text") {
            case.check(&format!("{name} is ignored"), plan.ignored.iter().any(|ignored| ignored == name));
            continue;
        }
        let rows = row.pointer("/rows/0").and_then(Value::as_u64);
        let n = row.pointer("/shape/0").and_then(Value::as_u64).unwrap_or(1);
        let step = match text("op").context("a row without `op`")? {
            "copy" => Step::Copy,
            "transpose" => Step::Transpose,
            "rows" => Step::Third((rows.context("a row without `rows`")? / n) as usize),
            other => bail!("unknown op `{other}`"),
        };
        let target = text("official");
        case.check(name, part.is_some_and(|part| Some(part.target.as_str()) == target && part.step == step));
    }
    let listed = rows.len();
    let ours = plan.parts.len() + plan.ignored.len() + plan.unexpected.len();
    case.compare_number("tensors", ours as f64, listed as f64, Tolerance::Exact);
    Ok(())
}

/// Networks without adapters, one for each file that holds this encoder in this precision, filled from that file.
fn bare_networks(
    recorded: &Recorded,
    folder: &Path,
    encoder: Encoder,
    half: bool,
    rule: PositionRule,
) -> Result<Vec<(String, Talent)>> {
    let mut cfg: ModelConfig = recorded.model.clone();
    cfg.image.position_rule = rule;
    cfg.image.adapter_blocks.clear();
    cfg.text.adapter_blocks.clear();
    let mut networks = Vec::new();
    for entry in list(folder)? {
        let path: PathBuf = folder.join(&entry);
        let is_weights = path.is_dir() || (entry.ends_with(".safetensors") && !entry.contains("_forward"));
        if !is_weights || entry.contains("_f16") != half || encoder_in(&cfg, &path)? != encoder {
            continue;
        }
        let network = Talent::new(&cfg, Device::Cpu, Kind::Float)?;
        load_encoder(&network, encoder, &path, &Strictness::default())?;
        networks.push((entry, network));
    }
    anyhow::ensure!(!networks.is_empty(), "there are no weights for this recording");
    Ok(networks)
}

/// Runs a pass. Returns its result, and its intermediate values by their recorded names.
fn seen_in<T>(pass: impl FnOnce(&dyn Fn(Stage, &Tensor)) -> T) -> (T, BTreeMap<String, Tensor>) {
    let seen: RefCell<BTreeMap<String, Tensor>> = RefCell::default();
    let result = tch::no_grad(|| {
        pass(&|stage, value| {
            let name = match stage {
                Stage::Patches => return,
                Stage::Tokens => "embeddings".to_owned(),
                Stage::Block(index) => format!("block{index}"),
            };
            seen.borrow_mut().insert(name, value.shallow_clone());
        })
    });
    (result, seen.take())
}

fn image_forward(recorded: &Recorded, folder: &Path, case: &mut Case) -> Result<()> {
    let run = |network: &Talent, pixels: &Tensor| {
        let image = network.image();
        let (last, mut seen) =
            seen_in(|observe| image.normalise(&image.forward(pixels, &[], &nobody, observe).last));
        seen.insert("last_hidden_state".to_owned(), last);
        seen
    };
    let whole = bare_networks(recorded, folder, Encoder::Image, false, PositionRule::Talent)?;
    let halved = bare_networks(recorded, folder, Encoder::Image, true, PositionRule::Talent)?;
    for (pixels, prefix) in [("native.pixel_values", "native"), ("resized.pixel_values", "resized.scale01")] {
        let pixels = case.input(pixels)?;
        for (file, network) in &whole {
            for (name, value) in run(network, &pixels) {
                let expected = case.input(&format!("{prefix}.{name}"))?;
                case.compare_with(&format!("{file}: {prefix}.{name}"), &value, &expected, IMAGE);
            }
        }
        for (file, network) in &halved {
            let expected = case.input(&format!("{prefix}.last_hidden_state.f16w"))?;
            let seen = run(network, &pixels);
            let found = seen.get("last_hidden_state").context("no final state")?;
            case.compare_with(&format!("{file}: {prefix}"), found, &expected, IMAGE);
        }
    }
    let table = recorded.init()?.get("dinov2.pos_embed").context("no position table")?;
    let side = recorded.model.grid();
    let ours = backbone::resample_positions(table, side, PositionRule::Talent);
    case.compare("resized.pos_embed_scale01", &ours, IMAGE)?;
    // Hugging Face's library follows DINOv2's own configuration, which is an option here.
    let library = backbone::resample_positions(table, side, PositionRule::Dinov2);
    case.compare("resized.pos_embed_hf", &library, IMAGE)?;
    let pixels = case.input("resized.pixel_values")?;
    for (file, network) in bare_networks(recorded, folder, Encoder::Image, false, PositionRule::Dinov2)? {
        let seen = run(&network, &pixels);
        for name in ["embeddings", "last_hidden_state"] {
            let expected = case.input(&format!("resized.hf.{name}"))?;
            case.compare_with(&format!("{file}: resized.hf.{name}"), &seen[name], &expected, IMAGE);
        }
    }
    Ok(())
}

fn text_forward(recorded: &Recorded, folder: &Path, case: &mut Case) -> Result<()> {
    let ids = case.input("input_ids")?;
    let ends = ids.argmax(-1, false);
    case.compare("eot_position", &ends, Tolerance::Exact)?;
    let run = |network: &Talent, ids: &Tensor| {
        let (out, mut seen) = seen_in(|observe| network.text().forward(ids, &nobody, observe));
        seen.insert("pooler_output".to_owned(), network.text().at_sentence(&out.words, ids));
        seen.insert("last_hidden_state".to_owned(), out.words);
        seen.insert("text_embeds".to_owned(), out.state);
        seen
    };
    let other_ids = case.input("eos.input_ids")?;
    let positions = other_ids.argmax(-1, false);
    case.compare("eos.position_argmax", &positions, Tolerance::Exact)?;
    // Hugging Face's library has a second rule, the position of the end token's id. It agrees with ours for every output of a
    // tokenizer.
    let same = positions.eq_tensor(&case.input("eos.position_eos_id")?);
    for (file, network) in bare_networks(recorded, folder, Encoder::Text, false, PositionRule::Talent)? {
        for (name, value) in run(&network, &ids) {
            let expected = case.input(&name)?;
            case.compare_with(&format!("{file}: {name}"), &value, &expected, TEXT);
        }
        let states = run(&network, &other_ids).remove("text_embeds").context("no state")?;
        let expected = case.input("eos.text_embeds_argmax")?;
        case.compare_with(&format!("{file}: eos.text_embeds_argmax"), &states, &expected, TEXT);
        let rows = same.nonzero().squeeze_dim(1);
        let expected = case.input("eos.text_embeds_eos_id")?.index_select(0, &rows);
        let found = states.index_select(0, &rows);
        case.compare_with(&format!("{file}: eos.text_embeds_eos_id"), &found, &expected, TEXT);
    }
    for (file, network) in bare_networks(recorded, folder, Encoder::Text, true, PositionRule::Talent)? {
        let seen = run(&network, &ids);
        for name in ["last_hidden_state", "text_embeds"] {
            let expected = case.input(&format!("{name}.f16w"))?;
            case.compare_with(&format!("{file}: {name}"), &seen[name], &expected, TEXT);
        }
    }
    Ok(())
}
