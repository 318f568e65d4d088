//! Single modules with their input gradients.

use adapters::{VisualAdapter, WordUnit};
use anyhow::{Context, Result, bail, ensure};
use backbone::{Grid, PositionRule};
use rca::SentenceUnit;
use talent::{Mode, Talent};
use tch::{Kind, Tensor};
use tlm_losses::Cpcl;
use torch_ext::layers::{grid_positions, sequence_positions};

use crate::case::Case;
use crate::network::INTERMEDIATE;
use crate::recorded::Recorded;
use crate::training::TERM;

pub(crate) fn case(recorded: &Recorded, case: &mut Case) -> Result<()> {
    let name = case.name.clone();
    match name.as_str() {
        "module_positions" => return positions(case),
        "module_pos_embed" => return pos_embed(case),
        "module_neck" => return neck(recorded, case),
        _ => {}
    }
    let network = recorded.network(Kind::Float)?;
    let place = case.text("/config/weights")?;
    let swap = |tensor: &Tensor| tensor.transpose(0, 1);
    match name.as_str() {
        "module_visual_adapter" => {
            let adapter = visual_adapter(&network, &place)?;
            module(case, &["x", "text"], |inputs, mode| adapter.forward(&inputs[0], &inputs[1], mode))
        }
        "module_visual_cost" => word_cost(&network, &place, case),
        "module_text_adapter" => {
            let adapter = network.text_adapters().get(index_below(&place, TEXT_BLOCKS)?);
            let adapter = adapter.context("the block has no adapter")?;
            module(case, &["x"], |inputs, mode| adapter.forward(&inputs[0], mode))
        }
        "module_dino_block_adapter" => {
            let block = index_below(&place, IMAGE_BLOCKS)?;
            module(case, &["x", "text"], |inputs, mode| image_block(&network, block, inputs, mode))
        }
        "module_dino_block_plain" => {
            let block = index_below(&place, IMAGE_BLOCKS)?;
            let no_words = Tensor::zeros([0], (Kind::Float, case.device));
            module(case, &["x"], |inputs, mode| {
                image_block(&network, block, &[inputs[0].shallow_clone(), no_words.shallow_clone()], mode)
            })
        }
        "module_clip_block_adapter" | "module_clip_block_plain" => {
            let block = index_below(&place, TEXT_BLOCKS)?;
            module(case, &["x"], |inputs, mode| {
                let guest = network.text_adapters().guest(mode);
                swap(&network.text().block(block, &swap(&inputs[0]), &guest))
            })
        }
        "module_neck_cost" => sentence_cost(&network, &place, case),
        "module_coordconv" => {
            module(case, &["x"], |inputs, mode| network.neck().coord_conv().forward(&inputs[0], mode))
        }
        "module_decoder_layer" => decoder_layer(&network, &place, case),
        "module_decoder" => module(case, &["vis", "txt"], |inputs, mode| {
            network.decoder().forward(&inputs[0], &inputs[1], None, mode).flatten(2, 3)
        }),
        "module_projector" => module(case, &["x", "word"], |inputs, mode| {
            network.projector().forward(&inputs[0], &inputs[1], mode)
        }),
        _ => bail!("nothing here knows this module"),
    }
}

fn word_cost(network: &Talent, place: &str, case: &mut Case) -> Result<()> {
    let adapter = visual_adapter(network, place)?;
    let WordUnit::CostVolume(unit) = adapter.unit() else { bail!("the adapter has no cost volume") };
    module(case, &["x", "text"], |inputs, _| unit.forward(&inputs[0], &inputs[1]))
}

fn sentence_cost(network: &Talent, place: &str, case: &mut Case) -> Result<()> {
    let level = place.strip_prefix("neck.fusion").and_then(|level| level.parse::<usize>().ok());
    let unit = level.and_then(|level| network.neck().units().get(level.wrapping_sub(3)));
    let Some(SentenceUnit::CostVolume(unit)) = unit else { bail!("`{place}` is no cost volume") };
    module(case, &["vis", "txt"], |inputs, mode| unit.forward(&inputs[0], &inputs[1].squeeze_dim(0), mode))
}

/// Runs a module in the modes that were recorded and compares its output and the gradients of
/// `sum(out * cotangent)`.
fn module(case: &mut Case, inputs: &[&str], forward: impl Fn(&[Tensor], Mode) -> Tensor) -> Result<()> {
    let cotangent = case.input("cotangent")?;
    let mut ran = false;
    for (mode, suffix) in [(Mode::Eval, ""), (Mode::Eval, "_eval"), (Mode::Train, "_train")] {
        if !case.has(&format!("out{suffix}")) {
            continue;
        }
        ran = true;
        let leaves = leaves(case, inputs)?;
        let out = forward(&leaves, mode);
        (&out * &cotangent).sum(None).backward();
        case.compare(&format!("out{suffix}"), &out, INTERMEDIATE)?;
        for (name, leaf) in inputs.iter().zip(&leaves) {
            case.compare(&format!("grad_{name}{suffix}"), &leaf.grad(), INTERMEDIATE)?;
        }
    }
    ensure!(ran, "no output was recorded");
    Ok(())
}

fn leaves(case: &mut Case, names: &[&str]) -> Result<Vec<Tensor>> {
    names.iter().map(|name| Ok(case.input(name)?.copy().set_requires_grad(true))).collect()
}

fn index_below(place: &str, prefix: &str) -> Result<usize> {
    let rest = place.strip_prefix(prefix).and_then(|rest| rest.split('.').next());
    let index = rest.and_then(|index| index.parse().ok());
    index.with_context(|| format!("config.weights is `{place}`, expected {prefix}<number>"))
}

const IMAGE_BLOCKS: &str = "dinov2.blocks.";
const TEXT_BLOCKS: &str = "txt_backbone.transformer.resblocks.";

fn visual_adapter<'a>(network: &'a Talent, place: &str) -> Result<&'a VisualAdapter> {
    let adapter = network.visual_adapters().get(index_below(place, IMAGE_BLOCKS)?);
    adapter.context("the block has no adapter")
}

/// Runs one image block.
///
/// - inputs: tokens and words
fn image_block(network: &Talent, block: usize, inputs: &[Tensor], mode: Mode) -> Tensor {
    let guest = network.visual_adapters().guest(&inputs[1], None, mode, &|_, _| {});
    network.image().block(block, &inputs[0], Grid::square(network.config().grid()), &guest)
}

/// One decoder layer, in the recording's sequence-first layout, with the recorded position codes.
fn decoder_layer(network: &Talent, place: &str, case: &mut Case) -> Result<()> {
    let index = index_below(place, "decoder.layers.")?;
    let layer = network.decoder().layers().get(index).with_context(|| format!("there is no `{place}`"))?;
    let (pixels, words) = (case.input("vis_pos")?.transpose(0, 1), case.input("txt_pos")?.transpose(0, 1));
    let layout = case.text("/config/layout")?;
    let grid = layout.split_whitespace().find_map(|word| {
        let (h, w) = word.split_once('x')?;
        Some((h.parse::<i64>().ok()?, w.parse::<i64>().ok()?))
    });
    let (h, w) = grid.context("config.layout names no grid")?;
    let here = (Kind::Float, case.device);
    let c = pixels.size()[2];
    case.compare_with("vis_pos", &grid_positions(c, h, w, here), &pixels, INTERMEDIATE);
    case.compare_with("txt_pos", &sequence_positions(c, words.size()[1], here), &words, INTERMEDIATE);
    let swap = |tensor: &Tensor| tensor.transpose(0, 1);
    module(case, &["vis", "txt"], |inputs, mode| {
        swap(&layer.forward(&swap(&inputs[0]), &swap(&inputs[1]), [&pixels, &words], None, mode))
    })
}

/// The whole neck; its training gradient includes the consistency loss.
fn neck(recorded: &Recorded, case: &mut Case) -> Result<()> {
    let network = recorded.network(Kind::Float)?;
    let names = ["v3", "v4", "v5", "state"];
    let cotangent = case.input("cotangent")?;
    // The cost volume ignores the words.
    let no_words = Tensor::zeros([0], (Kind::Float, case.device));
    for (mode, suffix) in [(Mode::Eval, "eval"), (Mode::Train, "train")] {
        let leaves = leaves(case, &names)?;
        let taps = [0, 1, 2].map(|level: usize| leaves[level].shallow_clone());
        let out = network.neck().forward(&taps, &leaves[3], &no_words, mode);
        let mut scalar = (&out.features * &cotangent).sum(None);
        case.compare(&format!("fq_{suffix}"), &out.features, INTERMEDIATE)?;
        if mode.is_train() {
            case.compare("tccl_feature_train", &out.aggregated, INTERMEDIATE)?;
            let levels: Vec<_> =
                out.fused.iter().map(|fused| Cpcl::default().loss(fused, &out.sentence)).collect();
            for (index, level) in levels.iter().enumerate() {
                let expected = case.number(&format!("/scalars/levels/{index}"))?;
                let found = f64::try_from(&level.loss)?;
                case.compare_number(&format!("level {}", index + 3), found, expected, TERM);
                let pointer = format!("/scalars/rows_passing/{index}");
                case.compare_rows(&format!("rows of level {}", index + 3), &level.partners, &pointer)?;
            }
            let affinity = levels.iter().map(|level| &level.loss).sum::<Tensor>() / 3.0;
            let expected = case.number("/scalars/affinity")?;
            case.compare_number("affinity", f64::try_from(&affinity)?, expected, TERM);
            scalar += affinity;
        }
        scalar.backward();
        for (name, leaf) in names.iter().zip(&leaves) {
            case.compare(&format!("grad_{name}_{suffix}"), &leaf.grad(), INTERMEDIATE)?;
        }
    }
    Ok(())
}

/// Sinusoidal codes, `pos1d_<width>_<length>` and `pos2d_<channels>_<height>_<width>`.
fn positions(case: &mut Case) -> Result<()> {
    let here = (Kind::Float, case.device);
    for name in case.names() {
        let sizes: Vec<i64> = name.split('_').skip(1).filter_map(|size| size.parse().ok()).collect();
        let codes = match (name.split('_').next(), sizes.as_slice()) {
            (Some("pos1d"), &[width, length]) => sequence_positions(width, length, here),
            (Some("pos2d"), &[channels, h, w]) => grid_positions(channels, h, w, here),
            _ => bail!("`{name}` follows no known pattern"),
        };
        case.compare(&name, &codes, INTERMEDIATE)?;
    }
    Ok(())
}

/// Resampled position tables, `m<M>_to_<n>.pos_embed` and `.out`.
fn pos_embed(case: &mut Case) -> Result<()> {
    for name in case.names() {
        let Some(stem) = name.strip_suffix(".pos_embed") else { continue };
        let side = stem.split_once("_to_").and_then(|(_, side)| side.parse().ok());
        let side = side.with_context(|| format!("`{name}` follows no known pattern"))?;
        let resampled = backbone::resample_positions(&case.input(&name)?, side, PositionRule::Talent);
        case.compare(&format!("{stem}.out"), &resampled, INTERMEDIATE)?;
    }
    Ok(())
}
