//! Compares the network with recordings of the official implementation (see `golden/README.md`).

use std::collections::BTreeMap;

mod common;

use common::{assert_close, miniature, recorded_model, recording};
use talent::{ModelConfig, Pass, Talent, TalentOutput, TrainedParts, Triplet};
use tch::{Device, Kind, Tensor};
use tlm_losses::{Cpcl, Segmentation, Tccl};
use torch_ext::Entry;

#[test]
fn inference_equals_the_recording() {
    let (model, recorded) = (recorded_model(Kind::Float), recording("eval_forward"));
    let out = tch::no_grad(|| model.forward(&recorded["img"], &recorded["word"], &Pass::EVAL));
    let intermediates = [
        ("txt", &out.words),
        ("state", &out.state),
        ("vis0", &out.taps[0]),
        ("vis1", &out.taps[1]),
        ("vis2", &out.taps[2]),
        ("neck_txt", &out.neck.sentence),
        ("v3", &out.neck.projected[0]),
        ("v4", &out.neck.projected[1]),
        ("v5", &out.neck.projected[2]),
        ("fq3", &out.neck.fused[0]),
        ("fq4", &out.neck.fused[1]),
        ("fq5", &out.neck.fused[2]),
        ("neck_tccl_feature", &out.neck.aggregated),
        ("neck_fq", &out.neck.features),
        ("decoder_out", &out.decoded),
        ("logits", &out.logits),
    ];
    for (name, found) in intermediates {
        assert_close(name, found, &recorded[name], 2e-5);
    }
}

#[test]
fn a_training_step_equals_the_recording() {
    let (model, recorded) = (recorded_model(Kind::Float), recording("train_forward"));
    let images = &recording("eval_forward")["img"];
    let ids = Triplet {
        words: &recorded["word"],
        positives: &recorded["pos_word"],
        negatives: &recorded["neg_word"],
    };
    let out = model.forward(images, ids, &Pass::TRAIN);
    let [positive, negative] = out.contrast.as_ref().unwrap();
    for (name, found, tolerance) in [
        ("txt", &out.words, 2e-5),
        ("state", &out.state, 2e-5),
        ("pos_state", positive, 2e-5),
        ("neg_state", negative, 2e-5),
        ("fq3", &out.neck.fused[0], 2e-5),
        ("fq5", &out.neck.fused[2], 2e-5),
        ("neck_tccl_feature", &out.neck.aggregated, 2e-5),
        ("neck_fq", &out.neck.features, 2e-5),
        ("decoder_out", &out.decoded, 2e-5),
        // The last batch normalisations amplify rounding (specification, section 14).
        ("logits", &out.logits, 1.2e-4),
    ] {
        assert_close(name, found, &recorded[name], tolerance);
    }

    let total = losses_equal_the_recording(&out, &recorded);
    total.backward();
    let gradients = recording("train_grads");
    let trained = model.trainable();
    assert_eq!(trained.len(), gradients.len());
    for (name, parameter) in trained {
        let (found, expected) = (parameter.grad(), &gradients[&name]);
        let largest = f64::try_from(expected.abs().max()).unwrap();
        let error = f64::try_from((found - expected).abs().max()).unwrap();
        // Some are the small remainder of terms that cancel: with AVX2 one differs by 4.1e-4 of its largest entry (`parity` compares
        // them in float64, too). A gradient that is zero in theory is recorded as rounding noise of order 1e-9 (quirk Q12).
        assert!(error <= (5e-4 * largest).max(1e-7), "{name}: {error:e} of {largest:e}");
    }
}

/// Compares every loss term and returns their weighted sum.
fn losses_equal_the_recording(out: &TalentOutput, recorded: &BTreeMap<String, Tensor>) -> Tensor {
    let [positive, negative] = out.contrast.as_ref().unwrap();
    let seg = Segmentation::default().loss(&out.logits, &recorded["mask"]).total();
    let levels: Vec<_> =
        out.neck.fused.iter().map(|fused| Cpcl::default().loss(fused, &out.neck.sentence)).collect();
    for (level, name) in levels.iter().zip(["lv_col3", "lv_col4", "lv_col5"]) {
        assert_eq!(level.partners.squeeze_dim(2), recorded[name].to_kind(Kind::Int64), "{name}");
    }
    let cpcl = levels.iter().map(|level| &level.loss).sum::<Tensor>() / 3.0;
    let tccl =
        Tccl::default().loss(&out.neck.aggregated, positive, negative, &recorded["tccl_valid"], None).loss;
    let total = &seg + &cpcl * 0.1 + &tccl * 0.1;
    let values = [&seg, &levels[0].loss, &levels[1].loss, &levels[2].loss, &cpcl, &tccl, &total];
    let expected = [
        1.658_506_035_8,
        0.091_645_479_2,
        0.462_361_335_8,
        0.283_807_426_7,
        0.279_271_394_0,
        0.066_061_079_5,
        1.693_039_298_1,
    ];
    for (value, expected) in values.into_iter().zip(expected) {
        assert!(
            (f64::try_from(value).unwrap() - expected).abs() <= 1e-6 * expected.max(1.0),
            "{value:?} is not {expected}"
        );
    }
    total
}

#[test]
fn official_parameter_counts() {
    for (cfg, word_len, adapters, neck, frozen) in [
        (ModelConfig::base(), 17, 2_333_232, 7_753_728, 150_016_257),
        (ModelConfig::base(), 22, 2_337_072, 7_753_728, 150_016_257),
        (ModelConfig::large(), 17, 2_727_984, 8_146_944, 367_806_977),
    ] {
        let model = Talent::new(&ModelConfig { word_len, ..cfg }, Device::Cpu, Kind::Half).unwrap();
        let entries = model.store().entries();
        let count = |wanted: &dyn Fn(&Entry) -> bool| -> usize {
            let parameters = entries.iter().filter(|(_, entry)| entry.role == torch_ext::Role::Parameter);
            parameters.filter(|(_, entry)| wanted(entry)).map(|(_, entry)| entry.tensor.numel()).sum()
        };
        let group = |name: &str| count(&|entry: &Entry| entry.group.name == name);
        assert_eq!(group("visual_adapters") + group("text_adapters"), adapters);
        assert_eq!(group("neck"), neck);
        assert_eq!(group("decoder"), 7_899_136);
        assert_eq!(group("projector"), 4_788_737);
        assert_eq!(count(&|entry| !entry.tensor.requires_grad()), frozen);
    }
}

#[test]
fn every_variant_builds_and_trains() {
    use talent::{AdapterFusion, Gate, NeckFusion};
    tch::manual_seed(0);
    for adapter in [AdapterFusion::CostVolume, AdapterFusion::CrossAttention, AdapterFusion::None] {
        for neck in [NeckFusion::CostVolume, NeckFusion::CrossAttention, NeckFusion::Multiply] {
            for (gate, text_adapters, word_len) in [(Gate::Frozen, true, 17), (Gate::Learned, false, 22)] {
                let mut cfg = miniature();
                cfg.word_len = word_len;
                cfg.image.fusion = adapter;
                cfg.image.fusion_width = 16;
                cfg.image.gate = gate;
                cfg.text.adapters = text_adapters;
                cfg.head.fusion = neck;
                let model = Talent::new(&cfg, Device::Cpu, Kind::Float).unwrap();
                model.train_only(TrainedParts::Tuned);
                let images = Tensor::randn([2, 3, 56, 56], (Kind::Float, Device::Cpu));
                let words = Tensor::ones([2, word_len], (Kind::Int64, Device::Cpu));
                let ids = Triplet { words: &words, positives: &words, negatives: &words };
                let out = model.forward(&images, ids, &Pass::TRAIN);
                out.logits.sum(None).backward();
                let without_gradient: Vec<String> = model
                    .trainable()
                    .into_iter()
                    .filter(|(_, parameter)| !parameter.grad().defined())
                    .map(|(name, _)| name)
                    // With cross-attention to the words, only the consistency loss uses the projected sentence, and by
                    // definition gives it no gradient.
                    .filter(|name| neck != NeckFusion::CrossAttention || !name.starts_with("neck.txt_proj."))
                    .collect();
                assert!(without_gradient.is_empty(), "{adapter:?} {neck:?} {gate:?}: {without_gradient:?}");
                assert_eq!(
                    model.trainable().iter().any(|(name, _)| name.contains("ls_gate")),
                    gate == Gate::Learned
                );
            }
        }
    }
}
