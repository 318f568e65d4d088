//! Tests of the adapters with numbers that can be checked by hand.

use adapters::{
    AdapterFusion, Gate, TextAdapter, TextAdapters, TextAdaptersConfig, VisualAdapter, VisualAdapters,
    VisualAdaptersConfig,
};
use backbone::{
    ImageDesign, ImageEncoderConfig, PositionRule, TextDesign, TextEncoderConfig, Variant, unobserved,
};
use rca::WordUnitConfig;
use tch::{Device, IndexOp, Kind, Tensor};
use torch_ext::Store;
use torch_ext::layers::Mode;

const PLACE: (Kind, Device) = (Kind::Double, Device::Cpu);

fn store() -> Store {
    tch::manual_seed(5);
    Store::new(Device::Cpu, Kind::Double)
}

fn largest(xs: &Tensor) -> f64 {
    f64::try_from(xs.abs().max()).unwrap()
}

fn set_identity(store: &Store, layer: &str, width: i64) {
    store.assign(&format!("{layer}.weight"), &Tensor::eye(width, PLACE)).unwrap();
    store.assign(&format!("{layer}.bias"), &Tensor::zeros([width], PLACE)).unwrap();
}

#[test]
fn the_text_adapter_sets_position_0_aside_and_doubles_it() {
    let store = store();
    let adapter = TextAdapter::new(&store.root(), 64, 64);
    // Positive weights and words: no ReLU hides a change.
    for (name, entry) in store.entries() {
        store.assign(&name, &entry.tensor.abs()).unwrap();
    }
    set_identity(&store, "D_fc1", 64);
    set_identity(&store, "D_fc2", 64);
    let words = Tensor::rand([2, 6, 64], PLACE);
    let first = Tensor::randn([2, 64], PLACE);
    words.i((.., 0)).copy_(&first);
    let out = adapter.forward(&words, Mode::Eval);
    assert!(largest(&(out.i((.., 0)) - first.relu() * 2.0)) < 1e-12);
    // The other positions get the branches, whose receptive field is three positions to either side: the kernel of the third
    // branch covers two, and its input from the second branch covers one more.
    let moved = words.copy();
    let _ = moved.i((.., 5)).fill_(3.0);
    let difference = (adapter.forward(&moved, Mode::Eval) - out).abs().amax([0, 2].as_slice(), false);
    let reach = Vec::<f64>::try_from(difference).unwrap();
    assert_eq!((reach[0], reach[1]), (0.0, 0.0));
    assert!(reach[2..].iter().all(|&change| change > 0.0));
}

#[test]
fn the_visual_adapter_doubles_special_tokens() {
    let store = store();
    let unit = WordUnitConfig::new(16, 8, 8, 3);
    for fusion in [AdapterFusion::None, AdapterFusion::CostVolume] {
        let store = Store::new(store.device(), Kind::Double);
        let cfg = VisualAdaptersConfig {
            blocks: vec![],
            image_width: 16,
            n_special: 3,
            unit,
            fusion,
            gate: Gate::Frozen,
        };
        let adapter = VisualAdapter::new(&store.root(), &cfg);
        set_identity(&store, "D_fc1", 16);
        set_identity(&store, "D_fc2", 16);
        let (tokens, words) = (Tensor::randn([2, 3 + 4, 16], PLACE), Tensor::randn([2, 3, 8], PLACE));
        let out = adapter.forward(&tokens, &words, Mode::Eval);
        assert_eq!(out.size(), tokens.size());
        assert!(largest(&(out.i((.., ..3)) - tokens.i((.., ..3)).relu() * 2.0)) < 1e-12);
        // Only the cost volume reads the words.
        let other = adapter.forward(&tokens, &(words * 2.0), Mode::Eval);
        assert_eq!(largest(&(other - out)) > 0.0, fusion == AdapterFusion::CostVolume);
    }
}

#[test]
fn adapters_make_the_sentence_depend_on_its_padding() {
    for with_adapters in [false, true] {
        let store = store();
        let blocks = if with_adapters { vec![1] } else { vec![] };
        let mut adapters = TextAdapters::new(TextAdaptersConfig { blocks, text_width: 16, bottleneck: 64 });
        let cfg = TextEncoderConfig {
            width: 16,
            depth: 2,
            n_heads: 2,
            vocabulary: 50,
            context: 12,
            state_width: 16,
            variant: Variant::default(),
        };
        let encoder = TextDesign::PUBLISHED.build(&store.root(), &cfg, &mut |block, path| {
            adapters.register(block, path);
        });
        let guest = adapters.guest(Mode::Eval);
        let ids = |padding: i64| Tensor::from_slice(&[48, 3, 49, padding, 0]).view([1, 5]);
        let state = |padding: i64| encoder.forward(&ids(padding), &guest, &unobserved).state;
        // Quirk Q5: causal without adapters, not causal with them.
        assert_eq!(largest(&(state(0) - state(5))) > 1e-9, with_adapters);
    }
}

#[test]
fn a_closed_gate_silences_the_adapter() {
    let store = store();
    let unit = WordUnitConfig::new(16, 8, 16, 3);
    let mut adapters = VisualAdapters::new(VisualAdaptersConfig {
        blocks: vec![2],
        image_width: 16,
        n_special: 3,
        unit,
        fusion: AdapterFusion::CostVolume,
        gate: Gate::Frozen,
    });
    let cfg = ImageEncoderConfig {
        width: 16,
        depth: 3,
        n_heads: 2,
        mlp_ratio: 2,
        patch_size: 4,
        n_registers: 2,
        position_grid: 3,
        position_rule: PositionRule::Talent,
        low_precision_tokens: false,
        variant: Variant::default(),
    };
    let encoder = ImageDesign::PUBLISHED.build(&store.root(), &cfg, &mut |block, path| {
        adapters.register(block, path);
    });
    let images = Tensor::randn([1, 3, 12, 12], PLACE);
    let level = |scale: f64| {
        let words = Tensor::ones([1, 3, 8], PLACE) * scale;
        let guest = adapters.guest(&words, None, Mode::Eval, &|_, _| {});
        encoder.forward(&images, &[], &guest, &unobserved).last.copy()
    };
    let gate = store.get("blocks.2.ls_gate.gamma").unwrap();
    // Initial values are computed in float32, so the constant is float32's 0.2.
    assert_eq!(Vec::<f64>::try_from(gate).unwrap(), [f64::from(0.2_f32); 16]);
    assert!(largest(&(level(1.0) - level(50.0))) > 0.0);
    store.assign("blocks.2.ls_gate.gamma", &Tensor::zeros([16], PLACE)).unwrap();
    assert_eq!(largest(&(level(1.0) - level(50.0))), 0.0);
}
