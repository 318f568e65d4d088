//! Weight files in every supported layout, compared with the recorded weights (see `golden/README.md`).

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{golden, miniature, recorded_model, recording};
use talent::weights::{Encoder, LoadReport, Strictness, WeightsError, load_encoder, load_network};
use talent::{ModelConfig, Pass, Talent};
use tch::{Device, Kind, Tensor};
use weight_files::WeightFile;

fn blank(cfg: &ModelConfig) -> Talent {
    let model = Talent::new(cfg, Device::Cpu, Kind::Float).unwrap();
    for (_, entry) in model.store().entries() {
        tch::no_grad(|| {
            let _ = entry.tensor.shallow_clone().fill_(7);
        });
    }
    model
}

fn load(model: &Talent, encoder: Encoder, path: &str) -> Result<LoadReport, WeightsError> {
    load_encoder(model, encoder, &golden(path), &Strictness::default())
}

/// Compares an encoder with the recorded weights, after `rounded` was applied to these.
fn assert_filled(model: &Talent, encoder: Encoder, rounded: impl Fn(&Tensor) -> Tensor) {
    let mut n = 0;
    let entries = model.store().entries().into_iter();
    let groups: BTreeMap<String, &str> = entries.map(|(name, entry)| (name, entry.group.name)).collect();
    for (name, expected) in recording("model_init") {
        if groups[&name] == encoder.group().name {
            let found = model.store().get(&name).unwrap();
            // Files with only the text tower lack it, and nothing uses it.
            if name.ends_with("logit_scale") && f64::try_from(&found).unwrap() == 7.0 {
                continue;
            }
            assert_eq!(found, rounded(&expected), "{name}");
            n += 1;
        } else {
            assert!(
                model.store().get(&name).unwrap().eq(7).all().int64_value(&[]) == 1,
                "{name} was touched"
            );
        }
    }
    assert!(n > 40);
}

#[test]
fn the_image_encoder_in_every_layout() {
    for path in ["checkpoints/dinov2_mini_reg4_pretrain.pth", "hf/dinov2_sharded", "hf/dinov2_bin"] {
        let model = blank(&miniature());
        let report = load(&model, Encoder::Image, path).unwrap();
        assert_eq!((report.matched, report.casts.len()), (64, 0), "{path}: {report}");
        assert_filled(&model, Encoder::Image, Tensor::shallow_clone);
    }
    let model = blank(&miniature());
    let report = load(&model, Encoder::Image, "hf/dinov2_hf_f16.safetensors").unwrap();
    assert!(report.to_string().contains("64 tensors matched"), "{report}");
    assert!(report.to_string().contains("cast from F16 to Float"), "{report}");
    let through_half = |tensor: &Tensor| tensor.to_kind(Kind::Half).to_kind(Kind::Float);
    assert_filled(&model, Encoder::Image, through_half);
}

#[test]
fn the_text_encoder_in_every_layout() {
    let paths = [
        "checkpoints/clip_mini.pt",
        "hf/clip_bin",
        "hf/clip_bin/pytorch_model.bin",
        "hf/clip_sharded",
        "hf/clip_sharded/model.safetensors.index.json",
        "hf/clip_text",
        "hf/clip_text/model.safetensors",
        "hf/clip_hf_position_ids.safetensors",
    ];
    for path in paths {
        let model = blank(&miniature());
        let report = load(&model, Encoder::Text, path).unwrap();
        assert!(report.is_complete() && report.matched + report.tolerated.len() == 54, "{path}: {report}");
        assert_filled(&model, Encoder::Text, Tensor::shallow_clone);
    }
    let model = blank(&miniature());
    load(&model, Encoder::Text, "hf/clip_text_hf_f16.safetensors").unwrap();
    let through_half = |tensor: &Tensor| tensor.to_kind(Kind::Half).to_kind(Kind::Float);
    assert_filled(&model, Encoder::Text, through_half);
}

#[test]
fn a_training_checkpoint_fills_the_network() {
    let model = blank(&miniature());
    let path = golden("checkpoints/best_model.pth");
    let report = load_network(&model, &path, &Strictness::default()).unwrap();
    assert_eq!(report.matched, 417);
    let recorded = recording("eval_forward");
    let out = tch::no_grad(|| model.forward(&recorded["img"], &recorded["word"], &Pass::EVAL));
    common::assert_close("logits", &out.logits, &recording("checkpoint")["logits"], 2e-5);

    let mut file = WeightFile::open(&path).unwrap();
    let scalars = file.scalars();
    assert_eq!(scalars["epoch"].as_i64(), Some(1));
    assert_eq!(scalars["scheduler/milestones/35"].as_i64(), Some(1));
    let moment = talent::weights::read_tensor(&mut file, "optimizer/state/0/exp_avg").unwrap();
    let name = "exp_avg.txt_backbone.transformer.resblocks.1.adapter.dense_branch1.conv.weight";
    assert_eq!(moment, recording("checkpoint")[name]);
}

#[test]
fn another_word_length_names_the_tensor_and_both_shapes() {
    let model = Talent::new(&ModelConfig { word_len: 22, ..miniature() }, Device::Cpu, Kind::Float).unwrap();
    let error =
        load_network(&model, &golden("checkpoints/best_model.pth"), &Strictness::default()).unwrap_err();
    let message = error.to_string();
    for part in ["best_model.pth", "dinov2.blocks.1.adapter.cross.cost_proj.weight", "[20, 17]", "[20, 22]"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn tolerance_must_be_asked_for() {
    let model = recorded_model(Kind::Float);
    let path = golden("checkpoints/dinov2_mini_reg4_pretrain.pth");
    let refused = load_network(&model, &path, &Strictness::default()).unwrap_err().to_string();
    assert!(refused.contains("missing") && refused.contains("unexpected"), "{refused}");
    let wrong = load_encoder(&model, Encoder::Text, &path, &Strictness::default()).unwrap_err().to_string();
    assert!(wrong.contains("no sign of a CLIP text encoder"), "{wrong}");

    // The network has one more block than the file, whose tensors the file lacks.
    let mut deeper = miniature();
    deeper.image.depth = 5;
    let model = Talent::new(&deeper, Device::Cpu, Kind::Float).unwrap();
    let refused = load_encoder(&model, Encoder::Image, &path, &Strictness::default()).unwrap_err();
    assert!(refused.to_string().contains("`dinov2.blocks.4.norm1.weight`"), "{refused}");
    let tolerant = Strictness { allow_missing: vec!["dinov2.blocks.4.".into()] };
    let report = load_encoder(&model, Encoder::Image, &path, &tolerant).unwrap();
    assert_eq!((report.matched, report.tolerated.len()), (64, 14));
}

#[test]
fn the_head_count_must_agree() {
    let mut cfg = miniature();
    cfg.image.n_heads = 3;
    let model = Talent::new(&cfg, Device::Cpu, Kind::Float).unwrap();
    let message = load(&model, Encoder::Image, "hf/dinov2_bin").unwrap_err().to_string();
    assert!(message.contains("n_heads 4 (here 3)"), "{message}");
    assert!(load(&model, Encoder::Image, "hf/absent").is_err());
    assert!(!Path::new("hf/absent").exists());
}

#[test]
fn other_networks_are_refused() {
    let refused = |encoder: Encoder, from: &str, config: &str| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(golden(from), folder.path().join("model.safetensors")).unwrap();
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        let model = blank(&miniature());
        load_encoder(&model, encoder, folder.path(), &Strictness::default()).unwrap_err().to_string()
    };
    let text = "hf/clip_text_hf_f16.safetensors";
    let error = refused(Encoder::Text, text, r#"{"model_type":"clip_text_model","hidden_act":"gelu"}"#);
    assert!(error.contains("variant.activation gelu (here quick_gelu)"), "{error}");
    let image = "hf/dinov2_hf_f16.safetensors";
    let error = refused(Encoder::Image, image, r#"{"model_type":"dinov2"}"#);
    assert!(error.contains("dinov2_with_registers"), "{error}");
    let error = refused(Encoder::Image, image, r#"{"use_swiglu_ffn":true}"#);
    assert!(error.contains("variant.gated_mlp true (here false)"), "{error}");
    // Eight heads are Hugging Face's default, which a config may omit.
    let nested = r#"{"model_type":"clip","text_config":{},"vision_config":{"num_attention_heads":12}}"#;
    let error = refused(Encoder::Text, text, nested);
    assert!(error.contains("n_heads 8 (here 4)"), "{error}");
}

/// The recorded tensors of an encoder by their names behind its prefix.
fn encoder_tensors(encoder: Encoder, prefix: &str) -> Vec<(String, Tensor)> {
    let model = blank(&miniature());
    let entries = model.store().entries().into_iter();
    let groups: BTreeMap<String, &str> = entries.map(|(name, entry)| (name, entry.group.name)).collect();
    let all = recording("model_init").into_iter();
    let own = all.filter(|(name, _)| groups[name] == encoder.group().name);
    own.map(|(name, tensor)| (name.strip_prefix(prefix).unwrap().to_owned(), tensor)).collect()
}

fn written(folder: &Path, tensors: &[(String, Tensor)]) -> std::path::PathBuf {
    let path = folder.join("encoder.safetensors");
    Tensor::write_safetensors(tensors, &path).unwrap();
    path
}

#[test]
fn encoders_inside_what_training_programs_put_around_them() {
    let folder = tempfile::tempdir().unwrap();
    for (encoder, prefix, wrappers) in [
        (
            Encoder::Image,
            "dinov2.",
            &[
                "module.",
                "_orig_mod.",
                "backbone.",
                "module.backbone.",
                "model._orig_mod.",
                "teacher.backbone.",
            ][..],
        ),
        (Encoder::Text, "txt_backbone.", &["module.", "text.", "module.text."][..]),
    ] {
        let own = encoder_tensors(encoder, prefix);
        for wrapper in wrappers {
            let wrapped: Vec<(String, Tensor)> = own
                .iter()
                .map(|(name, tensor)| (format!("{wrapper}{name}"), tensor.shallow_clone()))
                .collect();
            let model = blank(&miniature());
            let path = written(folder.path(), &wrapped);
            let loaded = load_encoder(&model, encoder, &path, &Strictness::default());
            loaded.unwrap_or_else(|error| panic!("{wrapper}: {error}"));
            assert_filled(&model, encoder, Tensor::shallow_clone);
        }
    }
}

#[test]
fn chunked_blocks_and_timm_s_names() {
    let folder = tempfile::tempdir().unwrap();
    let own = encoder_tensors(Encoder::Image, "dinov2.");
    let chunked: Vec<(String, Tensor)> = own
        .iter()
        .map(|(name, tensor)| {
            let block = name.strip_prefix("blocks.");
            (block.map_or(name.clone(), |rest| format!("blocks.0.{rest}")), tensor.shallow_clone())
        })
        .collect();
    let model = blank(&miniature());
    load_encoder(&model, Encoder::Image, &written(folder.path(), &chunked), &Strictness::default()).unwrap();
    assert_filled(&model, Encoder::Image, Tensor::shallow_clone);

    // timm adds the class token's position to the token, and has no mask token.
    let tensor = |name: &str| own.iter().find(|(other, _)| other == name).unwrap().1.shallow_clone();
    let positions = tensor("pos_embed");
    let class = tensor("cls_token") + positions.narrow(1, 0, 1);
    let timm: Vec<(String, Tensor)> = own
        .iter()
        .filter(|(name, _)| name != "mask_token")
        .map(|(name, tensor)| match name.as_str() {
            "register_tokens" => ("reg_token".to_owned(), tensor.shallow_clone()),
            "cls_token" => (name.clone(), class.shallow_clone()),
            "pos_embed" => (name.clone(), positions.narrow(1, 1, positions.size()[1] - 1).contiguous()),
            _ => (name.clone(), tensor.shallow_clone()),
        })
        .collect();
    let model = blank(&miniature());
    load_encoder(&model, Encoder::Image, &written(folder.path(), &timm), &Strictness::default()).unwrap();
    let found = |name: &str| model.store().get(&format!("dinov2.{name}")).unwrap();
    let n = positions.size()[1] - 1;
    assert_eq!(found("pos_embed").narrow(1, 1, n), positions.narrow(1, 1, n));
    let sum = found("cls_token") + found("pos_embed").narrow(1, 0, 1);
    common::assert_close("class token with its position", &sum, &class, 1e-6);
}
