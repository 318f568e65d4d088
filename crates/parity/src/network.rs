//! Inference, initial values, and the checkpoint files.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;
use talent::weights::{Encoder, Strictness, load_network, official_names, read_tensor};
use talent::{ModelConfig, Pass, Stage, TalentOutput, TrainedParts, probabilities};
use tch::{Kind, Tensor};
use weight_files::WeightFile;

use crate::case::{Case, read_tensors};
use crate::encoders;
use crate::recorded::{Recorded, list};
use crate::report::{CaseReport, Tolerance};

/// Tolerance of intermediate values in float32.
pub(crate) const INTERMEDIATE: Tolerance = Tolerance::Scaled(2e-5);

/// The initial values: names, order, shapes, and which parameters train.
pub(crate) fn model_init(recorded: &Recorded, case: &mut Case) -> Result<()> {
    let network = recorded.network(Kind::Float)?;
    for (name, entry) in network.store().entries() {
        case.compare(&name, &entry.tensor, Tolerance::Exact)?;
    }
    network.train_only(TrainedParts::Tuned);
    let listed = case.json.get("trainable").and_then(Value::as_array).context("no list `trainable`")?;
    let listed: Vec<&str> = listed.iter().filter_map(Value::as_str).collect();
    let trainable = network.trainable();
    let same = trainable.iter().map(|(name, _)| name.as_str()).eq(listed);
    case.check("trainable names in order", same);
    let groups =
        recorded.config.get("param_groups").and_then(Value::as_array).context("no `param_groups`")?;
    for (index, (ours, theirs)) in network.optimizer_groups().iter().zip(groups).enumerate() {
        let theirs = theirs.as_array().into_iter().flatten().filter_map(Value::as_str);
        case.check(
            &format!("optimiser group {index}"),
            ours.iter().map(|(name, _)| name.as_str()).eq(theirs),
        );
    }
    let n_values: usize = trainable.iter().map(|(_, tensor)| tensor.numel()).sum();
    let expected = recorded.config.pointer("/counts/trainable").and_then(Value::as_f64);
    let expected = expected.context("config.json has no counts.trainable")?;
    case.compare_number("trainable values", n_values as f64, expected, Tolerance::Exact);
    Ok(())
}

/// One inference pass with its intermediate values.
pub(crate) fn eval_forward(recorded: &Recorded, case: &mut Case) -> Result<()> {
    let network = recorded.network(Kind::Float)?;
    let (images, words) = (case.input("img")?, case.input("word")?);
    let seen: RefCell<Vec<(String, Tensor)>> = RefCell::default();
    let observe = |stage: Stage, value: &Tensor| {
        let name = match stage {
            Stage::Patches => "patch_embed".to_owned(),
            Stage::Tokens => "vis_tokens".to_owned(),
            Stage::ImageBlock(index) => format!("vis_block{index}"),
            Stage::Words | Stage::AdapterPatches(_) => return,
            Stage::TextBlock(index) => format!("txt_block{index}"),
        };
        seen.borrow_mut().push((name, value.shallow_clone()));
    };
    let pass = Pass { observe: &observe, ..Pass::EVAL };
    let out = tch::no_grad(|| network.forward(&images, &words, &pass));
    for (name, value) in &seen.take() {
        case.compare(name, value, INTERMEDIATE)?;
    }
    compare_outputs(case, &out)?;
    for (level, name) in ["v3", "v4", "v5"].into_iter().enumerate() {
        case.compare(name, &out.neck.projected[level], INTERMEDIATE)?;
    }
    case.compare("logits", &out.logits, INTERMEDIATE)?;
    case.compare("prob_upsampled", &probabilities(&out.logits, images.size()[2]), INTERMEDIATE)?;
    Ok(())
}

/// Outputs of a pass after the encoders' blocks, by their recorded names. The logits are left out.
pub(crate) fn named_outputs(out: &TalentOutput) -> Vec<(&'static str, Tensor)> {
    let decoded = out.decoded.flatten(2, 3);
    let mut named = vec![
        ("txt", &out.words),
        ("state", &out.state),
        ("vis0", &out.taps[0]),
        ("vis1", &out.taps[1]),
        ("vis2", &out.taps[2]),
        ("neck_txt", &out.neck.sentence),
        ("fq3", &out.neck.fused[0]),
        ("fq4", &out.neck.fused[1]),
        ("fq5", &out.neck.fused[2]),
        ("neck_tccl_feature", &out.neck.aggregated),
        ("neck_fq", &out.neck.features),
        ("decoder_out", &decoded),
    ];
    if let Some([positive, negative]) = &out.contrast {
        named.extend([("pos_state", positive), ("neg_state", negative)]);
    }
    named.into_iter().map(|(name, value)| (name, value.detach())).collect()
}

/// Compares the outputs that inference and training recordings share.
pub(crate) fn compare_outputs(case: &mut Case, out: &TalentOutput) -> Result<()> {
    for (name, value) in named_outputs(out) {
        case.compare(name, &value, INTERMEDIATE)?;
    }
    Ok(())
}

/// The training checkpoint: the logits of its network, optimiser moments, scalars, and the encoder files' tensor lists.
pub(crate) fn checkpoint(recorded: &Recorded, case: &mut Case) -> Result<()> {
    let folder = recorded.path().join("checkpoints");
    let path = training_checkpoint(&folder)?.context("there is no training checkpoint in checkpoints/")?;
    let network = recorded.network(Kind::Float)?;
    load_network(&network, &path, &Strictness::default())?;
    let inputs = read_tensors(&recorded.path().join("eval_forward.safetensors"), recorded.device)?;
    let (images, words) = (inputs.get("img").context("no img")?, inputs.get("word").context("no word")?);
    let out = tch::no_grad(|| network.forward(images, words, &Pass::EVAL));
    case.compare("logits", &out.logits, INTERMEDIATE)?;

    let mut file = WeightFile::open(&path)?;
    let names: Vec<String> = network.optimizer_groups().into_iter().flatten().map(|(name, _)| name).collect();
    for recorded_name in case.names() {
        let Some((kind, parameter)) =
            recorded_name.split_once('.').filter(|(kind, _)| kind.starts_with("exp_avg"))
        else {
            continue;
        };
        let index = names.iter().position(|name| name == parameter);
        let index = index.with_context(|| format!("`{parameter}` does not train"))?;
        let moment = read_tensor(&mut file, &format!("optimizer/state/{index}/{kind}"))?;
        case.compare(&recorded_name, &moment, Tolerance::Exact)?;
    }
    let step = read_tensor(&mut file, "optimizer/state/0/step")?;
    let expected = case.number("/scalars/optimizer_step")?;
    case.compare_number("optimizer_step", f64::try_from(step)?, expected, Tolerance::Exact);
    checkpoint_scalars(&file, case)?;
    encoder_lists(recorded, &folder, case)
}

/// Epoch, metrics, learning rates and schedule of a training checkpoint.
fn checkpoint_scalars(file: &WeightFile, case: &mut Case) -> Result<()> {
    let scalars = file.scalars();
    let mut compare = |stored: &str, pointer: &str| -> Result<()> {
        let found = scalars.get(stored).and_then(|value| value.as_f64());
        let found = found.with_context(|| format!("{} has no number `{stored}`", file.path().display()))?;
        let expected = case.number(pointer)?;
        case.compare_number(stored, found, expected, Tolerance::Exact);
        Ok(())
    };
    for name in ["epoch", "cur_iou", "best_iou"] {
        compare(name, &format!("/scalars/{name}"))?;
    }
    for name in ["Pr@50", "Pr@60", "Pr@70", "Pr@80", "Pr@90"] {
        compare(&format!("prec/{name}"), &format!("/scalars/prec/{name}"))?;
    }
    for group in 0..2 {
        compare(&format!("optimizer/param_groups/{group}/lr"), "/scalars/lr")?;
    }
    compare("scheduler/gamma", "/best_model/scheduler/gamma")?;
    compare("scheduler/last_epoch", "/best_model/scheduler/last_epoch")?;
    let milestones = case.json.pointer("/best_model/scheduler/milestones").and_then(Value::as_object);
    let milestones: Vec<String> = milestones.context("no milestones")?.keys().cloned().collect();
    for epoch in milestones {
        let found = scalars.get(format!("scheduler/milestones/{epoch}").as_str()).and_then(|n| n.as_i64());
        case.check(&format!("milestone {epoch}"), found == Some(1));
    }
    Ok(())
}

/// Names, dtypes and shapes of the tensors in the encoders' files.
fn encoder_lists(recorded: &Recorded, folder: &Path, case: &mut Case) -> Result<()> {
    let (image, text) = encoder_files(&recorded.model, folder)?;
    for (key, file) in [("dinov2", image), ("clip", text)] {
        let file = WeightFile::open(&file.with_context(|| format!("checkpoints/ has no {key} file"))?)?;
        let listed = case.json.get(key).and_then(Value::as_object).cloned();
        let listed = listed.with_context(|| format!("no list `{key}`"))?;
        case.check(&format!("{key}: number of tensors"), listed.len() == file.tensors().count());
        for (name, expected) in &listed {
            let found = file.info(name).map(|info| (element_name(info.element), info.shape.clone()));
            let shape: Option<Vec<usize>> = expected[1]
                .as_array()
                .map(|list| list.iter().filter_map(Value::as_u64).map(|n| n as usize).collect());
            let same = found.is_some_and(|(element, found)| {
                Some(element) == expected[0].as_str() && Some(found) == shape
            });
            case.check(&format!("{key}: {name}"), same);
        }
    }
    Ok(())
}

fn element_name(element: weight_files::Element) -> &'static str {
    use weight_files::Element;
    match element {
        Element::F16 => "float16",
        Element::BF16 => "bfloat16",
        Element::F32 => "float32",
        Element::F64 => "float64",
        Element::I8 => "int8",
        Element::I16 => "int16",
        Element::I32 => "int32",
        Element::I64 => "int64",
        Element::U8 => "uint8",
        Element::Bool => "bool",
    }
}

fn training_checkpoint(folder: &Path) -> Result<Option<PathBuf>> {
    for name in list(folder)? {
        let path = folder.join(name);
        if WeightFile::open(&path)?.tensors().any(|(name, _)| name.starts_with("state_dict/")) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// The weight files of the image encoder and of the text encoder.
fn encoder_files(cfg: &ModelConfig, folder: &Path) -> Result<(Option<PathBuf>, Option<PathBuf>)> {
    let (mut image, mut text) = (None, None);
    for name in list(folder)? {
        let path = folder.join(name);
        match encoders::encoder_in(cfg, &path) {
            Ok(Encoder::Image) => image = Some(path),
            Ok(Encoder::Text) => text = Some(path),
            // The training checkpoint, which is no encoder file.
            Err(_) => {}
        }
    }
    Ok((image, text))
}

/// Every file of `checkpoints/`, loaded and compared with the recorded initial values. The training checkpoint is compared with
/// the parameters after its last step.
pub(crate) fn checkpoint_files(recorded: &Recorded, folder: &Path) -> Vec<CaseReport> {
    let names = match list(folder) {
        Ok(names) => names,
        Err(error) => return vec![CaseReport::failed("checkpoints", &format!("{error:#}"))],
    };
    names.iter().map(|name| one_checkpoint(recorded, &folder.join(name))).collect()
}

fn one_checkpoint(recorded: &Recorded, path: &Path) -> CaseReport {
    let label = crate::shown(recorded.path(), path);
    Case::bare(&label, |case| {
        if !official_names(&WeightFile::open(path)?).contains_key("neck.txt_proj.weight") {
            return encoders::weights(recorded, path, case);
        }
        let network = recorded.blank_network()?;
        load_network(&network, path, &Strictness::default())?;
        let trained = read_tensors(&last_parameters(recorded)?, recorded.device)?;
        for (name, entry) in network.store().entries() {
            let expected = match trained.get(&name) {
                Some(expected) => expected,
                None => recorded.init()?.get(&name).context("model_init is incomplete")?,
            };
            // The file is an exact copy of that state.
            case.compare_with(&name, &entry.tensor, expected, Tolerance::Exact);
        }
        Ok(())
    })
}

fn last_parameters(recorded: &Recorded) -> Result<PathBuf> {
    let steps = recorded
        .case_names()?
        .into_iter()
        .filter_map(|name| name.strip_prefix("train_params_step").and_then(|step| step.parse::<u64>().ok()));
    let last = steps.max().context("there are no train_params_step cases")?;
    Ok(recorded.path().join(format!("train_params_step{last}.safetensors")))
}
