//! Methods of parameter-efficient tuning: what trains, that it learns, and merged low-rank updates.

mod common;

use std::collections::BTreeSet;

use backbone::{ImageDesign, ProjectionRole, TextDesign};
use common::miniature;
use serde_json::{Value, json};
use talent::weights::{PeftFolder, peft_tensors};
use talent::{
    AdapterFusion, LORA, LoraConfig, Mode, ModelConfig, NeckFusion, Pass, PromptConfig, Talent, TrainedParts,
    Tuning, probabilities,
};
use talent::{forward_flops, train_flops};
use tch::{Device, Kind, Tensor};
use torch_ext::{LowRankUpdate, Role, Trace, generator};
use weight_files::{PeftConfig, Targets};

fn tuned(tuning: Tuning) -> ModelConfig {
    ModelConfig { tuning, ..miniature() }
}

fn dinov3(tuning: Tuning) -> ModelConfig {
    let mut cfg = tuned(tuning);
    cfg.image.encoder = ImageDesign::try_from("dinov3".to_owned()).unwrap();
    cfg.image.width = 8 * cfg.image.n_heads;
    cfg
}

/// Plain DINOv2 with SigLIP's text tower.
fn siglip(tuning: Tuning) -> ModelConfig {
    let mut cfg = tuned(tuning);
    cfg.image.encoder = ImageDesign::try_from("dinov2".to_owned()).unwrap();
    cfg.image.n_registers = 0;
    cfg.text.encoder = TextDesign::try_from("siglip".to_owned()).unwrap();
    cfg.text.context = cfg.word_len;
    cfg
}

fn all() -> Vec<ModelConfig> {
    let deep = PromptConfig { n_tokens: 3, deep: true };
    let lora = LoraConfig {
        image_targets: vec![
            ProjectionRole::Query,
            ProjectionRole::Output,
            ProjectionRole::Up,
            ProjectionRole::Down,
        ],
        text_targets: vec![ProjectionRole::Key, ProjectionRole::Value, ProjectionRole::Output],
        rslora: true,
        ..LoraConfig::default()
    };
    let mut configs = vec![
        tuned(Tuning::Lora),
        ModelConfig { lora, ..tuned(Tuning::Lora) },
        ModelConfig { prompt: deep, ..tuned(Tuning::Prompt) },
        ModelConfig { prompt: PromptConfig { deep: false, ..deep }, ..tuned(Tuning::Prompt) },
        tuned(Tuning::Norms),
        tuned(Tuning::HeadOnly),
    ];
    let of_dinov3 = [Tuning::Adapters, Tuning::Lora, Tuning::Prompt, Tuning::Norms, Tuning::HeadOnly];
    configs.extend(of_dinov3.map(dinov3));
    configs.extend([Tuning::Adapters, Tuning::Lora, Tuning::Norms].map(siglip));
    // A gated MLP whose gate and value are one layer.
    let mut gated = siglip(Tuning::Lora);
    gated.image.variant.gated_mlp = Some(true);
    gated.lora.image_targets = vec![ProjectionRole::Gate, ProjectionRole::Up, ProjectionRole::Down];
    configs.push(gated);
    configs
}

fn inputs(cfg: &ModelConfig) -> (Tensor, Tensor) {
    let images = Tensor::randn([2, 3, cfg.input_size, cfg.input_size], (Kind::Float, Device::Cpu));
    (images, Tensor::randint(cfg.text.vocabulary, [2, cfg.word_len], (Kind::Int64, Device::Cpu)))
}

fn groups(model: &Talent) -> BTreeSet<&'static str> {
    let entries = model.store().entries().into_iter();
    entries.filter(|(_, entry)| entry.tensor.requires_grad()).map(|(_, entry)| entry.group.name).collect()
}

#[test]
fn each_method_trains_what_it_names() {
    let head = ["decoder", "neck", "projector"];
    let of = |cfg: &ModelConfig| groups(&Talent::seeded(cfg, Device::Cpu, Kind::Float, 1).unwrap());
    let with =
        |more: &[&'static str]| head.iter().copied().chain(more.iter().copied()).collect::<BTreeSet<_>>();
    assert_eq!(of(&tuned(Tuning::Lora)), with(&["lora"]));
    assert_eq!(of(&tuned(Tuning::Prompt)), with(&["visual_prompts"]));
    assert_eq!(of(&tuned(Tuning::HeadOnly)), with(&[]));
    assert_eq!(of(&tuned(Tuning::Norms)), with(&["image_encoder", "text_encoder"]));
    assert_eq!(of(&tuned(Tuning::Adapters)), with(&["text_adapters", "visual_adapters"]));
    let model = Talent::seeded(&tuned(Tuning::Norms), Device::Cpu, Kind::Float, 1).unwrap();
    let names: Vec<String> = model.trainable().into_iter().map(|(name, _)| name).collect();
    for name in [
        "dinov2.norm.weight",
        "dinov2.blocks.0.norm1.bias",
        "dinov2.blocks.0.attn.qkv.bias",
        "dinov2.patch_embed.proj.bias",
        "txt_backbone.ln_final.weight",
        "txt_backbone.transformer.resblocks.0.attn.in_proj_bias",
    ] {
        assert!(names.iter().any(|found| found == name), "{name}");
    }
    for name in ["dinov2.pos_embed", "dinov2.blocks.0.ls1.gamma", "dinov2.blocks.0.attn.qkv.weight"] {
        assert!(!names.iter().any(|found| found == name), "{name}");
    }
}

/// Sizes: rank times inputs and outputs of each layer; tokens times width times blocks.
#[test]
fn numbers_of_parameters() {
    let n = |cfg: &ModelConfig, group: &str| -> usize {
        let model = Talent::seeded(cfg, Device::Cpu, Kind::Float, 1).unwrap();
        let entries = model.store().entries().into_iter();
        entries.filter(|(_, entry)| entry.group.name == group).map(|(_, entry)| entry.tensor.numel()).sum()
    };
    let cfg = tuned(Tuning::Lora);
    let of = |depth: i64, width: i64| depth * 2 * cfg.lora.rank * 2 * width;
    let expected = of(cfg.image.depth, cfg.image.width) + of(cfg.text.depth, cfg.text.width);
    assert_eq!(n(&cfg, "lora"), expected as usize);
    let cfg = tuned(Tuning::Prompt);
    assert_eq!(n(&cfg, "visual_prompts"), (cfg.prompt.n_tokens * cfg.image.width * cfg.image.depth) as usize);
}

#[test]
fn one_batch_is_learnt() {
    for cfg in all() {
        let model = Talent::seeded(&cfg, Device::Cpu, Kind::Float, 5).unwrap();
        tch::manual_seed(7);
        let (images, ids) = inputs(&cfg);
        let side = 4 * cfg.grid();
        let mask = Tensor::zeros([2, 1, side, side], (Kind::Float, Device::Cpu));
        let _ = mask.narrow(0, 0, 1).narrow(2, 0, side / 2).fill_(1.0);
        let _ = mask.narrow(0, 1, 1).narrow(3, 0, side / 2).fill_(1.0);
        let before: Vec<Tensor> =
            model.trainable().into_iter().map(|(_, tensor)| tensor.detach().copy()).collect();
        let mut losses = Vec::new();
        let mut moments: Vec<(Tensor, Tensor)> =
            before.iter().map(|tensor| (tensor.zeros_like(), tensor.zeros_like())).collect();
        for step in 1..=60 {
            let output = model.forward(&images, &ids, &Pass::TRAIN);
            let loss = output.logits.binary_cross_entropy_with_logits::<Tensor>(
                &mask,
                None,
                None,
                tch::Reduction::Mean,
            );
            loss.backward();
            losses.push(f64::try_from(&loss).unwrap());
            // Adam, by hand.
            for ((_, parameter), (first, second)) in model.trainable().into_iter().zip(&mut moments) {
                let grad = parameter.grad();
                if !grad.defined() {
                    continue;
                }
                tch::no_grad(|| {
                    *first = &*first * 0.9 + &grad * 0.1;
                    *second = &*second * 0.99 + grad.square() * 0.01;
                    let unbiased = &*first / (1.0 - 0.9_f64.powi(step));
                    let spread = (&*second / (1.0 - 0.99_f64.powi(step))).sqrt() + 1e-8;
                    let _ = parameter.shallow_clone().g_sub_(&(unbiased / spread * 3e-3));
                });
                let mut parameter = parameter;
                parameter.zero_grad();
            }
        }
        let (first, last) = (losses[0], losses[losses.len() - 1]);
        assert!(last < 0.4 * first, "{:?} {:?}: {first} -> {last}", cfg.tuning, cfg.image.encoder);
        let moved = model.trainable().into_iter().zip(&before).filter(|((name, after), before)| {
            let in_encoder = name.starts_with("dinov") || name.starts_with("txt_backbone");
            in_encoder && !after.equal(before)
        });
        assert_eq!(moved.count() > 0, cfg.tuning != Tuning::HeadOnly, "{:?}", cfg.tuning);
    }
}

/// Fills LoRA's matrices B, which start at zero.
fn fill_updates(model: &Talent) {
    for update in model.store().low_rank_updates() {
        let _ = tch::no_grad(|| update.up.shallow_clone().normal_(0.0, 0.5));
    }
}

fn difference(one: &Tensor, other: &Tensor) -> f64 {
    f64::try_from((one - other).abs().max()).unwrap()
}

#[test]
fn merged_updates_compute_the_same() {
    for cfg in all().into_iter().filter(|cfg| cfg.tuning == Tuning::Lora) {
        let model = Talent::seeded(&cfg, Device::Cpu, Kind::Double, 5).unwrap();
        let (images, ids) = inputs(&cfg);
        let run = |model: &Talent| {
            tch::no_grad(|| model.forward(&images.to_kind(Kind::Double), &ids, &Pass::EVAL).logits)
        };
        let without = run(&model);
        fill_updates(&model);
        let unmerged = run(&model);
        assert!(difference(&unmerged, &without) > 1e-3);
        model.store().low_rank_updates().iter().for_each(LowRankUpdate::merge);
        assert!(difference(&run(&model), &unmerged) < 1e-10);
        // Without the matrices, too.
        let bare =
            Talent::seeded(&ModelConfig { tuning: Tuning::HeadOnly, ..cfg }, Device::Cpu, Kind::Double, 5);
        let bare = bare.unwrap();
        for (name, _) in bare.store().entries() {
            bare.store().assign(&name, &model.store().get(&name).unwrap()).unwrap();
        }
        assert!(difference(&run(&bare), &unmerged) < 1e-10);
    }
}

#[test]
fn peft_folders_are_written_and_read() {
    for cfg in all().into_iter().filter(|cfg| cfg.tuning == Tuning::Lora) {
        let model = Talent::seeded(&cfg, Device::Cpu, Kind::Float, 5).unwrap();
        fill_updates(&model);
        let other = Talent::seeded(&cfg, Device::Cpu, Kind::Float, 6).unwrap();
        for spec in [cfg.image.spec().without_input(), cfg.text.spec().without_input()] {
            let folder = tempfile::tempdir().unwrap();
            let (tensors, config) = peft_tensors(model.store(), &spec, &cfg.lora).unwrap();
            Tensor::write_safetensors(&tensors, folder.path().join("adapter_model.safetensors")).unwrap();
            let json = serde_json::to_string(&config.to_json()).unwrap();
            std::fs::write(folder.path().join("adapter_config.json"), json).unwrap();
            let names = PeftFolder::open(folder.path(), &spec).unwrap().fill(other.store()).unwrap();
            assert_eq!(names.len(), tensors.len());
            // Another rank is refused with what to set.
            let lora = LoraConfig { rank: 3, ..cfg.lora.clone() };
            let wrong =
                Talent::seeded(&ModelConfig { lora, ..cfg.clone() }, Device::Cpu, Kind::Float, 5).unwrap();
            let error = PeftFolder::open(folder.path(), &spec).unwrap().fill(wrong.store()).unwrap_err();
            assert!(error.to_string().contains("model.lora.rank=8"), "{error}");
            for (what, tensors, edit, expected) in unfitting(&tensors, &config) {
                let folder = tempfile::tempdir().unwrap();
                Tensor::write_safetensors(&tensors, folder.path().join("adapter_model.safetensors")).unwrap();
                let mut json = config.to_json();
                json[edit.0] = edit.1;
                std::fs::write(folder.path().join("adapter_config.json"), json.to_string()).unwrap();
                let read = PeftFolder::open(folder.path(), &spec).and_then(|peft| peft.fill(other.store()));
                let error = read.unwrap_err().to_string();
                assert!(error.contains(expected), "{what}: {error}");
            }
        }
        for (name, entry) in model.store().entries().into_iter().filter(|(_, entry)| entry.group == LORA) {
            assert!(entry.tensor.equal(&other.store().get(&name).unwrap()), "{name}");
        }
    }
}

type Tensors = Vec<(String, Tensor)>;

/// Folders that must be refused: what is wrong, the tensors, a setting to change, and a part of the message.
fn unfitting(
    tensors: &[(String, Tensor)],
    config: &PeftConfig,
) -> Vec<(&'static str, Tensors, (&'static str, Value), &'static str)> {
    let Targets::Named(modules) = &config.targets else { panic!("names") };
    let renamed = |edit: &dyn Fn(&str) -> String| {
        tensors.iter().map(|(name, tensor)| (edit(name), tensor.shallow_clone())).collect::<Tensors>()
    };
    let same = || renamed(&str::to_owned);
    let nothing = ("r", json!(config.rank));
    let mut holed = same();
    holed[0].1 = Tensor::full_like(&holed[0].1, f64::NAN);
    let whole = same().into_iter().map(|(name, tensor)| (name, tensor.to_kind(Kind::Int8))).collect();
    vec![
        ("fewer modules", same(), ("target_modules", json!([modules[0]])), "set the targets of this encoder"),
        ("one block", same(), ("target_modules", json!(format!(r".*\.0\..*{}", modules[0]))), "1 of"),
        ("another class", same(), ("auto_mapping", json!({"base_model_class": "BertModel"})), "`BertModel`"),
        ("not a number", holed, nothing.clone(), "not finite"),
        ("quantised", whole, nothing.clone(), "quantised"),
        (
            "another tower",
            renamed(&|name| name.replace("base_model.model.", "base_model.model.vision_model.")),
            nothing,
            "below `vision_model`",
        ),
    ]
}

#[test]
fn dropout_of_updates_follows_the_pass() {
    let mut cfg = tuned(Tuning::Lora);
    cfg.lora.dropout = 0.5;
    let model = Talent::seeded(&cfg, Device::Cpu, Kind::Float, 5).unwrap();
    fill_updates(&model);
    let (images, ids) = inputs(&cfg);
    let run = |mode: Mode| {
        generator::set_state(Device::Cpu, &generator::state(Device::Cpu).unwrap()).unwrap();
        tch::no_grad(|| model.forward(&images, &ids, &Pass { mode, ..Pass::EVAL }).words)
    };
    assert!(run(Mode::Eval).equal(&run(Mode::Eval)));
    assert!(!run(Mode::Train).equal(&run(Mode::Train)));
    assert!(run(Mode::Eval).equal(&run(Mode::Eval)));
}

#[test]
fn what_does_not_fit_is_named() {
    let error = |cfg: ModelConfig| Talent::seeded(&cfg, Device::Cpu, Kind::Float, 1).unwrap_err().to_string();
    let lora = |lora: LoraConfig| ModelConfig { lora, ..tuned(Tuning::Lora) };
    let base = LoraConfig::default;
    assert!(error(lora(LoraConfig { rank: 0, ..base() })).contains("lora.rank"));
    assert!(error(lora(LoraConfig { dropout: 1.0, ..base() })).contains("lora.dropout"));
    let gate = LoraConfig { text_targets: vec![ProjectionRole::Gate], ..base() };
    assert!(error(lora(gate)).contains("`gate`, which the blocks of `clip` lack"));
    let mut ungated = dinov3(Tuning::Lora);
    ungated.lora.image_targets = vec![ProjectionRole::Query, ProjectionRole::Gate];
    assert!(error(ungated).contains("`gate`, which the blocks of this `dinov3` lack"));
    let twice = LoraConfig { image_targets: vec![ProjectionRole::Query; 2], ..base() };
    assert!(error(lora(twice)).contains("`query` twice"));
    let mut variant = tuned(Tuning::Adapters);
    variant.text.variant.rope_theta = Some(7.0);
    assert!(error(variant).contains("text.variant.rope_theta is set, but"));
    let mut variant = tuned(Tuning::Adapters);
    variant.image.variant.key_bias = Some(false);
    assert!(error(variant).contains("must be equal in DINOv2"));
    let mut variant = dinov3(Tuning::Adapters);
    variant.image.variant.rope_theta = Some(-5.0);
    assert!(error(variant).contains("image.variant.rope_theta must be a positive number"));
    let none = LoraConfig { text_targets: vec![], image_targets: vec![], ..base() };
    assert!(error(lora(none)).contains("both empty"));
    let prompt = PromptConfig { n_tokens: 0, deep: true };
    assert!(error(ModelConfig { prompt, ..tuned(Tuning::Prompt) }).contains("prompt.n_tokens"));
}

#[test]
fn flops_of_each_method() {
    let base = |tuning: Tuning| ModelConfig { tuning, ..ModelConfig::base() };
    let step = |tuning: Tuning| train_flops(&base(tuning), TrainedParts::Tuned);
    let head = step(Tuning::HeadOnly);
    // Nothing in the encoders has a backward pass.
    assert_eq!(head.vision, forward_flops(&base(Tuning::HeadOnly)).vision);
    assert_eq!(head.text, 3 * forward_flops(&base(Tuning::HeadOnly)).text);
    assert_eq!(head.adapters, 0);
    for tuning in [Tuning::Lora, Tuning::Prompt, Tuning::Norms] {
        let cost = step(tuning);
        assert!(cost.vision > 19 * head.vision / 10 && cost.vision < 5 * head.vision / 2, "{tuning:?}");
        assert_eq!(cost.projector, head.projector);
    }
    // By hand: 12 blocks, query and value, 1029 tokens, 2 n r (d + d) forward.
    let lora = forward_flops(&base(Tuning::Lora)).vision - forward_flops(&base(Tuning::HeadOnly)).vision;
    assert_eq!(lora, 12 * 2 * (2 * 1029 * 8 * (768 + 768)));
}

#[test]
fn every_network_becomes_a_torchscript_module() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("module.pt");
    let mut others = [miniature(), miniature(), miniature()];
    others[1].image.fusion_width = 24;
    (others[1].image.fusion, others[1].head.fusion) = (AdapterFusion::CrossAttention, NeckFusion::Multiply);
    (others[2].image.fusion, others[2].head.fusion) = (AdapterFusion::None, NeckFusion::CrossAttention);
    for cfg in all().into_iter().chain(others) {
        let side = cfg.input_size;
        let evaluate = |model: &Talent, pixels: &Tensor, ids: &Tensor| {
            tch::no_grad(|| probabilities(&model.forward(pixels, ids, &Pass::EVAL).logits, side))
        };
        let inputs = |n: i64| {
            let pixels = Tensor::randn([n, 3, side, side], (Kind::Float, Device::Cpu));
            (pixels, Tensor::randint(cfg.text.vocabulary, [n, cfg.word_len], (Kind::Int64, Device::Cpu)))
        };
        // New networks: what they remember from an earlier pass would be a constant.
        let model = || Talent::seeded(&cfg, Device::Cpu, Kind::Float, 5).unwrap();
        let trace = |model: &Talent, n: i64| {
            let (pixels, ids) = inputs(n);
            Trace::record(model.store(), &pixels, &ids, |pixels, ids| evaluate(model, pixels, ids)).unwrap()
        };
        let (first, second) = (model(), model());
        let traces = [trace(&first, 2), trace(&second, 3)];
        traces[0].save(&traces[1], &path, ("note.json", "{}")).unwrap();
        let module = tch::CModule::load(&path).unwrap();
        for n in [1, 3, 8] {
            let (pixels, ids) = inputs(n);
            let own = evaluate(&first, &pixels, &ids);
            let found = module.forward_ts(&[pixels, ids]).unwrap();
            assert_eq!(found.size(), own.size());
            let difference = difference(&found, &own);
            assert!(difference <= 2e-5, "{:?}, {n} samples: {difference:e}", cfg.tuning);
        }
        let parameters: BTreeSet<String> =
            module.named_parameters().unwrap().into_iter().map(|(name, _)| name).collect();
        let entries = first.store().entries();
        let own = entries.iter().filter(|(_, entry)| entry.role == Role::Parameter);
        assert_eq!(parameters, own.map(|(name, _)| name.clone()).collect());
    }
}

#[test]
fn a_pass_that_depends_on_the_batch_in_another_way_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = torch_ext::Store::new(Device::Cpu, Kind::Float);
    let trace = |n: i64, forward: fn(&Tensor, i64) -> Tensor| {
        let pixels = Tensor::ones([n, 3], (Kind::Float, Device::Cpu));
        let ids = Tensor::ones([n, 2], (Kind::Int64, Device::Cpu));
        Trace::record(&store, &pixels, &ids, |pixels, _| forward(pixels, n)).unwrap()
    };
    let save = |forward: fn(&Tensor, i64) -> Tensor| {
        let path = folder.path().join("module.pt");
        let traces = [trace(2, forward), trace(3, forward)];
        let saved = traces[0].save(&traces[1], &path, ("note.json", "{}"));
        saved.map_err(|error| error.to_string()).map(|()| tch::CModule::load(path).unwrap())
    };
    let module = save(|pixels, n| pixels.expand([n, n, 3], false) * 2.0).unwrap();
    let five =
        [Tensor::ones([5, 3], (Kind::Float, Device::Cpu)), Tensor::ones([5, 2], (Kind::Int64, Device::Cpu))];
    assert_eq!(module.forward_ts(&five).unwrap().size(), [5, 5, 3]);
    assert!(save(|pixels, n| pixels.repeat([n + 1, 1])).unwrap_err().contains("no multiple of the batch"));
    let loops = |pixels: &Tensor, n: i64| (0..n).fold(pixels.shallow_clone(), |sum, _| sum + pixels);
    assert!(save(loops).unwrap_err().contains("the operations depend on the batch size"));
    // A pass that panics ends the recording.
    let pixels = Tensor::ones([2, 3], (Kind::Float, Device::Cpu));
    let panics = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        Trace::record(&store, &pixels, &pixels, |_, _| panic!("stops"))
    }));
    assert!(panics.is_err());
    save(|pixels, _| pixels + 1).unwrap();
}
