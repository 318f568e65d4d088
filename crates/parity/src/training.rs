//! Training steps: loss terms, gradients, parameters and buffers.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;
use talent::{Pass, Talent, TalentOutput, Triplet};
use tch::{Device, Kind, Tensor};
use tlm_losses::{Cpcl, Segmentation, Tccl};
use torch_ext::{Adam, AdamConfig, AdamGroup};

use crate::case::{Case, read_tensors};
use crate::json::read_json;
use crate::mask_sum;
use crate::network::{INTERMEDIATE, compare_outputs};
use crate::recorded::Recorded;
use crate::report::{Comparison, Tolerance};

/// Tolerance of loss terms in float32.
pub(crate) const TERM: Tolerance = Tolerance::Scaled(1e-6);
/// Tolerance of anything recorded in float64.
const DOUBLE: Tolerance = Tolerance::OfLargest(1e-9);
/// Tolerance of anything recorded in float64, compared on a GPU. The official float64 run computes two things in float32: the
/// sum of the mask and the resampling of the position table. A GPU sums in another order and uses fused multiply-add, so it
/// differs by float32 rounding in these two. Measured up to 1.4e-8 on an H200, in the segmentation loss, where the mask's sum
/// has 1e5 terms.
const DOUBLE_ON_GPU: Tolerance = Tolerance::OfLargest(5e-8);
/// Tolerance of the terms of a training step recorded in float64, on a CPU without vector instructions, which sums the mask in
/// another order, too. Measured up to 4.5e-8 with `ATEN_CPU_CAPABILITY=default`.
const STEP_WITHOUT_VECTORS: Tolerance = Tolerance::OfLargest(1e-7);

/// Tolerance of values recorded in float64, on a device.
pub(crate) fn double(device: Device) -> Tolerance {
    if device.is_cuda() { DOUBLE_ON_GPU } else { DOUBLE }
}

/// Tolerance of the terms of a training step recorded in float64.
fn double_step(device: Device) -> Tolerance {
    let has_vectors = torch_ext::cpu_kernels().is_ok_and(|text| !text.starts_with("DEFAULT"));
    if device.is_cuda() || has_vectors { double(device) } else { STEP_WITHOUT_VECTORS }
}

/// The recorded training steps, run once per precision.
#[derive(Debug, Default)]
pub(crate) struct Trainings {
    single: OnceCell<Training>,
    double: OnceCell<Training>,
}

impl Trainings {
    fn get(&self, recorded: &Recorded, kind: Kind) -> Result<&Training> {
        let cell = if kind == Kind::Double { &self.double } else { &self.single };
        if cell.get().is_none() {
            let _ = cell.set(Training::run(recorded, kind)?);
        }
        cell.get().context("training")
    }
}

#[derive(Debug)]
struct Training {
    first: TalentOutput,
    gradients: BTreeMap<String, Tensor>,
    steps: Vec<Step>,
}

/// Results of one training step.
#[derive(Debug)]
struct Step {
    terms: Vec<(&'static str, f64)>,
    partners: Vec<Tensor>,
    /// Trainable parameters and buffers.
    state: BTreeMap<String, Tensor>,
}

/// Loss terms of a pass, and the CPCL partners of each level.
pub(crate) struct Terms {
    pub(crate) total: Tensor,
    pub(crate) named: Vec<(&'static str, Tensor)>,
    pub(crate) partners: Vec<Tensor>,
}

/// `seg + 0.1 affinity + 0.1 tccl`.
pub(crate) fn terms(out: &TalentOutput, mask: &Tensor, valid: &Tensor) -> Result<Terms> {
    let seg = Segmentation::default().loss(&out.logits, mask).total();
    let levels: Vec<_> =
        out.neck.fused.iter().map(|fused| Cpcl::default().loss(fused, &out.neck.sentence)).collect();
    let affinity = levels.iter().map(|level| &level.loss).sum::<Tensor>() / levels.len() as f64;
    let [positive, negative] =
        out.contrast.as_ref().context("a training pass has positives and negatives")?;
    let tccl = Tccl::default().loss(&out.neck.aggregated, positive, negative, valid, None).loss;
    let total = &seg + &affinity * 0.1 + &tccl * 0.1;
    let mut named =
        vec![("loss", total.shallow_clone()), ("seg", seg), ("affinity", affinity), ("tccl", tccl)];
    for (name, level) in ["affinity_level3", "affinity_level4", "affinity_level5"].into_iter().zip(&levels) {
        named.push((name, level.loss.shallow_clone()));
    }
    let named = named.into_iter().map(|(name, term)| (name, term.detach())).collect();
    Ok(Terms {
        total,
        named,
        partners: levels.into_iter().map(|level| level.partners.squeeze_dim(2)).collect(),
    })
}

impl Training {
    fn run(recorded: &Recorded, kind: Kind) -> Result<Self> {
        let inputs = read_tensors(&recorded.path().join("train_forward.safetensors"), recorded.device)?;
        let images = read_tensors(&recorded.path().join("eval_forward.safetensors"), recorded.device)?;
        let json = read_json(&recorded.path().join("train_forward.json"))?;
        let n_steps = json.pointer("/scalars/steps").and_then(Value::as_array).context("no steps")?.len();
        let input = |name: &str| inputs.get(name).with_context(|| format!("train_forward lacks `{name}`"));
        let images = images.get("img").context("eval_forward lacks `img`")?.to_kind(kind);
        let (mut mask, valid) = (input("mask")?.shallow_clone(), input("tccl_valid")?.to_kind(kind));
        let network = recorded.network(kind)?;
        let mut adam = optimiser(&network, &recorded.config)?;
        let ids =
            Triplet { words: input("word")?, positives: input("pos_word")?, negatives: input("neg_word")? };
        let (mut first, mut gradients, mut steps) = (None, BTreeMap::new(), Vec::new());
        for _ in 0..n_steps {
            adam.zero_grad()?;
            let out = network.forward(&images, ids, &Pass::TRAIN);
            if first.is_none() && kind == Kind::Double {
                let recorded = json.pointer("/scalars/steps_f64/0/seg").and_then(Value::as_f64);
                mask = mask_sum::as_summed(&out.logits, &mask, recorded.context("no steps_f64/0/seg")?)?;
            }
            let Terms { total, named, partners } = terms(&out, &mask, &valid)?;
            total.backward();
            if first.is_none() {
                let trainable = network.trainable();
                gradients =
                    trainable.into_iter().map(|(name, tensor)| (name, tensor.grad().copy())).collect();
                first = Some(out);
            }
            adam.step(1.0)?;
            let kept =
                network.store().entries().into_iter().filter(|(_, entry)| {
                    entry.role == torch_ext::Role::Buffer || entry.tensor.requires_grad()
                });
            let state = kept.map(|(name, entry)| (name, entry.tensor.detach().copy())).collect();
            let values = named.iter().map(|(name, term)| Ok((*name, f64::try_from(term)?)));
            steps.push(Step { terms: values.collect::<Result<_>>()?, partners, state });
        }
        Ok(Self { first: first.context("no steps were recorded")?, gradients, steps })
    }
}

fn optimiser(network: &Talent, config: &Value) -> Result<Adam> {
    let number = |pointer: &str| {
        config.pointer(pointer).and_then(Value::as_f64).with_context(|| format!("config.json: no {pointer}"))
    };
    let lr = number("/optim/lr")?;
    let cfg = AdamConfig {
        betas: [number("/optim/betas/0")?, number("/optim/betas/1")?],
        eps: number("/optim/eps")?,
        weight_decay: number("/optim/weight_decay")?,
    };
    Ok(Adam::new(network.optimizer_groups().map(|params| AdamGroup { params, lr }), cfg))
}

/// The first step's values, and the loss terms of all steps in both precisions.
pub(crate) fn forward(recorded: &Recorded, trainings: &Trainings, case: &mut Case) -> Result<()> {
    let training = trainings.get(recorded, Kind::Float)?;
    for input in ["word", "pos_word", "neg_word", "tccl_valid", "mask"] {
        let _ = case.input(input)?;
    }
    let out = &training.first;
    compare_outputs(case, out)?;
    let proto = out.neck.aggregated.mean_dim([2, 3].as_slice(), false, None);
    case.compare("visual_proto", &proto, INTERMEDIATE)?;
    // Training logits pass more batch normalisations with batch statistics, which amplify rounding. An independent
    // implementation reaches 6e-5 (specification, section 14).
    case.compare("logits", &out.logits, Tolerance::Absolute(1.2e-4))?;
    let n_rows = case.input("nearest_rows")?.size()[0];
    let rows = Tensor::arange(out.logits.size()[2], (Kind::Float, recorded.device)).view([1, 1, -1, 1]);
    case.compare("nearest_rows", &rows.upsample_nearest2d([n_rows, 1], None, None), Tolerance::Exact)?;
    for (level, name) in ["lv_col3", "lv_col4", "lv_col5"].into_iter().enumerate() {
        case.compare(name, &training.steps[0].partners[level], Tolerance::Exact)?;
    }
    for (kind, key, tolerance) in
        [(Kind::Float, "steps", TERM), (Kind::Double, "steps_f64", double_step(recorded.device))]
    {
        let training = trainings.get(recorded, kind)?;
        for (index, step) in training.steps.iter().enumerate() {
            for (name, value) in &step.terms {
                let expected = case.number(&format!("/scalars/{key}/{index}/{name}"))?;
                case.compare_number(&format!("{key} {}: {name}", index + 1), *value, expected, tolerance);
            }
            for (level, partners) in step.partners.iter().enumerate() {
                let label = format!("{key} {}: rows of level {}", index + 1, level + 3);
                case.compare_rows(&label, partners, &format!("/scalars/{key}/{index}/rows_passing/{level}"))?;
            }
        }
    }
    Ok(())
}

/// Tolerance of a gradient, as a fraction of its largest recorded entry.
const GRADIENT: f64 = 4e-4;

/// The gradient of the first step for every trained parameter.
pub(crate) fn gradients(recorded: &Recorded, trainings: &Trainings, case: &mut Case) -> Result<()> {
    let zero = case.json.get("structurally_zero").and_then(Value::as_array).cloned().unwrap_or_default();
    let zero: Vec<&str> = zero.iter().filter_map(Value::as_str).collect();
    let noise = case.json.get("per_parameter").cloned().unwrap_or_default();
    for kind in [Kind::Float, Kind::Double] {
        for (name, gradient) in &trainings.get(recorded, kind)?.gradients {
            let expected = case.input(name)?;
            let largest = f64::try_from(expected.abs().max().to_kind(Kind::Double))?;
            // A gradient that is zero in theory is recorded as rounding noise (quirk Q12), far below this.
            let tolerance = if zero.contains(&name.as_str()) {
                Tolerance::Absolute(1e-6)
            } else if kind == Kind::Double {
                Tolerance::OfLargest(GRADIENT)
            } else {
                // A gradient may be the small remainder of terms that cancel, for example that of a batch norm's scale in front
                // of another batch norm. In float32 it then has few correct digits in any implementation. The recorded distance
                // between the official float32 and float64 runs is one sample of that noise. The float64 run still has to match
                // the recording.
                let drawn = noise[name][1].as_f64().unwrap_or(0.0);
                let drawn = drawn / largest.max(f64::MIN_POSITIVE);
                Tolerance::OfLargest(GRADIENT.max(16.0 * drawn))
            };
            let label = if kind == Kind::Double { format!("{name} (float64)") } else { name.clone() };
            case.compare_with(&label, gradient, &expected, tolerance);
        }
    }
    Ok(())
}

/// Parameters and buffers after some steps.
pub(crate) fn parameters(recorded: &Recorded, trainings: &Trainings, case: &mut Case) -> Result<()> {
    let training = trainings.get(recorded, Kind::Float)?;
    let n_steps = case.number("/scalars/optimizer_steps")?;
    let lr = case.number("/scalars/lr")?;
    let gradients = read_tensors(&recorded.path().join("train_grads.safetensors"), recorded.device)?;
    let step = training.steps.get((n_steps as usize).wrapping_sub(1));
    let step = step.with_context(|| format!("{n_steps} steps, but train_forward records fewer"))?;
    // A bias in front of a batch norm has a gradient of zero in theory, so Adam may move it by the full learning rate per step
    // in either direction. The mean that it shifts enters the running mean with momentum 0.1.
    let drift =
        (0..n_steps as i32).map(f64::from).fold(0.0, |drift, step| 0.9 * drift + 0.1 * 2.0 * lr * step);
    for (name, found) in &step.state {
        let Some(gradient) = gradients.get(name) else {
            let tolerance = if name.ends_with("running_mean") && drift > 0.0 {
                Tolerance::Absolute(2e-5 + drift)
            } else {
                INTERMEDIATE
            };
            case.compare(name, found, tolerance)?;
            continue;
        };
        // Adam divides by the gradient's magnitude, so where the gradient is noise, the direction of the step is noise too.
        // These entries are only bounded by the distance that Adam can move.
        let expected = case.input(name)?;
        let error = (found - &expected).abs();
        let clear = gradient.abs().ge(1e-6);
        let zero = error.zeros_like();
        let largest =
            |mask: &Tensor| f64::try_from(error.where_self(mask, &zero).max().to_kind(Kind::Double));
        let (tight, loose) = (largest(&clear)?, largest(&clear.logical_not())?);
        case.record(Comparison::new(name, tight, 1.0, Tolerance::Absolute(5e-6)));
        // On a GPU the noise differs, so both runs may have moved that far, and in opposite directions.
        let ways = if recorded.device.is_cuda() { 2.0 } else { 1.0 };
        let reach = Tolerance::Absolute(1.1 * ways * lr * n_steps);
        case.record(Comparison::new(&format!("{name} (gradient below 1e-6)"), loose, 1.0, reach));
    }
    Ok(())
}
