//! Activation checkpointing of the image encoder must leave gradients, buffers, loss and RNG state bit-identical.

mod common;

use std::collections::BTreeMap;

use common::miniature;
use talent::{AdapterFusion, ModelConfig, Pass, Talent, TalentOutput, TrainedParts, Triplet, Tuning};
use tch::{Device, Kind, Tensor};
use tlm_losses::{Cpcl, Segmentation, Tccl};
use torch_ext::{Autocast, generator};

fn loss(output: &TalentOutput) -> Tensor {
    let neck = &output.neck;
    let mask = output.logits.ones_like();
    let valid = Tensor::ones([neck.sentence.size()[0]], (Kind::Float, Device::Cpu));
    let [positive, negative] = output.contrast.as_ref().unwrap();
    Segmentation::default().loss(&output.logits, &mask).total()
        + Cpcl::default().loss(&neck.fused[0], &(&neck.sentence * 30.0)).loss
        + Tccl::default().loss(&neck.aggregated, positive, negative, &valid, None).loss
}

/// Gradients, buffers, loss and RNG state after a training pass.
///
/// - shares: whether all three sentences but one are about the first image
fn pass(
    cfg: &ModelConfig,
    (parts, shares): (TrainedParts, bool),
    products: Kind,
    recompute: bool,
) -> BTreeMap<String, Tensor> {
    let model = Talent::seeded(cfg, Device::Cpu, Kind::Float, 5).unwrap();
    model.train_only(parts);
    tch::manual_seed(7);
    let images = Tensor::randn([2, 3, cfg.input_size, cfg.input_size], (Kind::Float, Device::Cpu));
    let image_of = shares.then(|| Tensor::from_slice(&[0_i64, 0, 1]));
    let n = if shares { 3 } else { 2 };
    let ids = Tensor::randint(cfg.text.vocabulary, [3, n, cfg.word_len], (Kind::Int64, Device::Cpu));
    let ids = Triplet { words: &ids.get(0), positives: &ids.get(1), negatives: &ids.get(2) };
    let mut found = BTreeMap::new();
    let mut kept = |output: &TalentOutput| {
        let loss = loss(output);
        found.insert("loss".to_owned(), loss.detach());
        loss
    };
    if recompute {
        model.train_recomputing(&images, image_of.as_ref(), &ids, products, kept).unwrap();
    } else {
        let total = {
            let _guard = Autocast::enable(Device::Cpu, products).unwrap();
            kept(&model.forward(&images, ids, &Pass { image_of: image_of.as_ref(), ..Pass::TRAIN }))
        };
        total.backward();
    }
    found.insert("random".to_owned(), generator::state(Device::Cpu).unwrap());
    for (name, entry) in model.store().entries() {
        if entry.tensor.grad().defined() {
            found.insert(format!("gradient of {name}"), entry.tensor.grad());
        }
        found.insert(name, entry.tensor);
    }
    found
}

fn compare(cfg: &ModelConfig, parts: TrainedParts, products: Kind) {
    compare_shared(cfg, (parts, false), products);
}

fn compare_shared(cfg: &ModelConfig, of: (TrainedParts, bool), products: Kind) {
    let (kept, again) = (pass(cfg, of, products, false), pass(cfg, of, products, true));
    assert_eq!(kept.keys().collect::<Vec<_>>(), again.keys().collect::<Vec<_>>());
    for (name, value) in &kept {
        assert!(value.equal(&again[name]), "{name}: {:?}", (value - &again[name]).abs().max());
    }
    let moved = |name: &str| f64::try_from(kept[name].abs().max()).unwrap() > 0.0;
    let deepest: &[&str] = match cfg.tuning {
        Tuning::Adapters => &[
            "dinov2.blocks.1.adapter.cross.text_proj.weight",
            "txt_backbone.transformer.resblocks.1.adapter.D_fc1.weight",
        ],
        Tuning::Lora => &[
            "dinov2.blocks.0.attn.qkv.query.lora_B.weight",
            "txt_backbone.transformer.resblocks.0.attn.in_proj.query.lora_B.weight",
        ],
        Tuning::Prompt => &["dinov2.prompt.tokens"],
        Tuning::Norms => {
            &["dinov2.patch_embed.proj.bias", "dinov2.blocks.0.norm1.weight", "txt_backbone.ln_final.bias"]
        }
        Tuning::HeadOnly => &["neck.txt_proj.weight"],
    };
    for name in deepest {
        assert!(moved(&format!("gradient of {name}")), "{name}");
    }
}

#[test]
fn adapters_and_head() {
    let mut cfg = miniature();
    // Large enough for the fast matrix products and attention; dropout inside the blocks and after them.
    cfg.input_size = 17 * cfg.image.patch_size;
    (cfg.image.width, cfg.image.fusion_width) = (64, 16);
    cfg.image.fusion = AdapterFusion::CrossAttention;
    cfg.decoder.dropout = 0.1;
    compare(&cfg, TrainedParts::Tuned, Kind::Float);
    compare(&cfg, TrainedParts::Tuned, Kind::BFloat16);
}

#[test]
fn everything() {
    compare(&miniature(), TrainedParts::All, Kind::Float);
}

#[test]
fn images_that_sentences_share() {
    for tuning in [Tuning::Adapters, Tuning::Lora] {
        compare_shared(&ModelConfig { tuning, ..miniature() }, (TrainedParts::Tuned, true), Kind::Float);
    }
}

#[test]
fn a_tapped_last_block() {
    let mut cfg = miniature();
    cfg.image.taps = [0, 3];
    compare(&cfg, TrainedParts::Tuned, Kind::Float);
}

#[test]
fn other_methods_of_tuning() {
    for tuning in [Tuning::Lora, Tuning::Prompt, Tuning::Norms, Tuning::HeadOnly] {
        let mut cfg = ModelConfig { tuning, ..miniature() };
        cfg.lora.dropout = 0.3;
        compare(&cfg, TrainedParts::Tuned, Kind::Float);
        compare(&cfg, TrainedParts::Tuned, Kind::BFloat16);
    }
}
