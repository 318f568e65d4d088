//! What the encoders and adapters do, with numbers a reader can check by hand.

use backbone::adapter::{TextAdapter, VisualAdapter, VisualAdapterConfig};
use backbone::{
    Gate, ImageEncoder, ImageEncoderConfig, PositionRule, TextEncoder, TextEncoderConfig, resample_positions,
};
use rca::{AdapterFusion, WordUnitConfig};
use tch::{Device, IndexOp, Kind, Tensor};
use torch_ext::Store;
use torch_ext::layers::Mode;

const PLACE: (Kind, Device) = (Kind::Double, Device::Cpu);

fn store() -> Store {
    tch::manual_seed(5);
    Store::new(Device::Cpu, Kind::Double)
}

fn set_identity(store: &Store, layer: &str, width: i64) {
    store.assign(&format!("{layer}.weight"), &Tensor::eye(width, PLACE)).unwrap();
    store.assign(&format!("{layer}.bias"), &Tensor::zeros([width], PLACE)).unwrap();
}

fn largest(xs: &Tensor) -> f64 {
    f64::try_from(xs.abs().max()).unwrap()
}

fn text_config(adapters: bool) -> TextEncoderConfig {
    TextEncoderConfig {
        width: 16,
        depth: 2,
        n_heads: 2,
        vocabulary: 50,
        context: 12,
        state_width: 16,
        adapters,
        adapter_blocks: vec![1],
        adapter_width: 64,
    }
}

fn image_config() -> ImageEncoderConfig {
    ImageEncoderConfig {
        width: 16,
        depth: 3,
        n_heads: 2,
        mlp_ratio: 2,
        patch_size: 4,
        n_registers: 2,
        position_grid: 3,
        position_rule: PositionRule::Talent,
        low_precision_tokens: false,
        taps: [0, 1],
        adapter_blocks: vec![2],
        adapter_width: 16,
        fusion_width: 16,
        fusion: AdapterFusion::CostVolume,
        gate: Gate::Frozen,
    }
}

#[test]
fn the_text_adapter_sets_position_0_aside_and_doubles_it() {
    let store = store();
    let adapter = TextAdapter::new(&store.root(), 64, 64);
    set_identity(&store, "D_fc1", 64);
    set_identity(&store, "D_fc2", 64);
    let words = Tensor::randn([2, 6, 64], PLACE);
    let out = adapter.forward(&words, Mode::Eval);
    assert!(largest(&(out.i((.., 0)) - words.i((.., 0)).relu() * 2.0)) < 1e-12);
    // The other positions get the branches. They see three positions to either side and no further: the third
    // branch sees two, and reads the second, which sees one.
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
    let unit = WordUnitConfig { bottleneck: 16, text_width: 8, width: 8, word_len: 3 };
    for fusion in [AdapterFusion::None, AdapterFusion::CostVolume] {
        let store = Store::new(store.device(), Kind::Double);
        let cfg = VisualAdapterConfig { image_width: 16, n_special: 3, unit, fusion };
        let adapter = VisualAdapter::new(&store.root(), cfg);
        set_identity(&store, "D_fc1", 16);
        set_identity(&store, "D_fc2", 16);
        let (tokens, words) = (Tensor::randn([2, 3 + 4, 16], PLACE), Tensor::randn([2, 3, 8], PLACE));
        let out = adapter.forward(&tokens, &words, Mode::Eval);
        assert_eq!(out.size(), tokens.size());
        assert!(largest(&(out.i((.., ..3)) - tokens.i((.., ..3)).relu() * 2.0)) < 1e-12);
        // Only the cost volume sees the words.
        let other = adapter.forward(&tokens, &(words * 2.0), Mode::Eval);
        assert_eq!(largest(&(other - out)) > 0.0, fusion == AdapterFusion::CostVolume);
    }
}

#[test]
fn the_sentence_vector_is_read_at_the_end_token() {
    let store = store();
    let encoder = TextEncoder::new(&store.root(), &text_config(false));
    let ids = Tensor::from_slice(&[48_i64, 3, 49, 0, 0, 48, 7, 8, 49, 0]).view([2, 5]);
    let out = encoder.forward(&ids, Mode::Eval);
    let projection = store.get("text_projection").unwrap();
    let expected = Tensor::stack(&[out.words.i((0, 2)), out.words.i((1, 3))], 0).matmul(&projection);
    assert!(largest(&(out.state - expected)) < 1e-12);
    let zeros = encoder.forward(&Tensor::zeros([1, 5], (Kind::Int64, Device::Cpu)), Mode::Eval);
    assert!(largest(&(zeros.state - zeros.words.i((.., 0)).matmul(&projection))) < 1e-12);
}

#[test]
fn adapters_make_the_sentence_depend_on_its_padding() {
    for adapters in [false, true] {
        let store = store();
        let encoder = TextEncoder::new(&store.root(), &text_config(adapters));
        let ids = |padding: i64| Tensor::from_slice(&[48, 3, 49, padding, 0]).view([1, 5]);
        let state = |padding: i64| encoder.forward(&ids(padding), Mode::Eval).state;
        // Quirk Q5: causal without adapters, not causal with them.
        assert_eq!(largest(&(state(0) - state(5))) > 1e-9, adapters);
    }
}

#[test]
fn taps_are_maps_and_registers_have_no_positions() {
    let store = store();
    let encoder = ImageEncoder::new(&store.root(), &image_config(), 3, 8);
    let (images, words) = (Tensor::randn([2, 3, 12, 12], PLACE), Tensor::randn([2, 3, 8], PLACE));
    let tokens = encoder.embed(&images);
    assert_eq!(tokens.size(), [2, 1 + 2 + 9, 16]);
    assert_eq!(tokens.i((0, 1..3)), store.get("register_tokens").unwrap().i(0));
    for tap in encoder.forward(&images, &words, Mode::Eval) {
        assert_eq!(tap.size(), [2, 16, 3, 3]);
    }
    // Positions are added to class token and patches; patch 4 is row 1, column 1.
    let patch = images.i((0, .., 4..8, 4..8)).reshape([48]);
    let weight = store.get("patch_embed.proj.weight").unwrap().view([16, 48]);
    let bias = store.get("patch_embed.proj.bias").unwrap();
    let expected = weight.mv(&patch) + bias + store.get("pos_embed").unwrap().i((0, 1 + 4));
    assert!(largest(&(tokens.i((0, 3 + 4)) - expected)) < 1e-12);
}

#[test]
fn a_closed_gate_silences_the_adapter() {
    let store = store();
    let encoder = ImageEncoder::new(&store.root(), &image_config(), 3, 8);
    let images = Tensor::randn([1, 3, 12, 12], PLACE);
    let level = |scale: f64| {
        encoder.forward(&images, &(Tensor::ones([1, 3, 8], PLACE) * scale), Mode::Eval)[2].copy()
    };
    let gate = store.get("blocks.2.ls_gate.gamma").unwrap();
    // Start values are drawn in float32, so the constant is float32's 0.2.
    assert_eq!(Vec::<f64>::try_from(gate).unwrap(), [f64::from(0.2_f32); 16]);
    assert!(largest(&(level(1.0) - level(50.0))) > 0.0);
    store.assign("blocks.2.ls_gate.gamma", &Tensor::zeros([16], PLACE)).unwrap();
    assert_eq!(largest(&(level(1.0) - level(50.0))), 0.0);
}

#[test]
fn positions_are_resampled_by_the_offset_scale() {
    let ramp = Tensor::arange(25, PLACE).view([5, 5]).i((0, ..)).expand([5, 5], false).reshape([1, 25, 1]);
    let table = Tensor::cat(&[Tensor::full([1, 1, 1], 9.0, PLACE), ramp], 1);
    assert_eq!(resample_positions(&table, 5, PositionRule::Talent), table);
    let out = resample_positions(&table, 4, PositionRule::Talent);
    assert_eq!(f64::try_from(out.i((0, 0, 0))).unwrap(), 9.0);
    // Column 2 reads at 2.5 * 5 / 4.1 - 0.5 with the cubic kernel of a = -0.75.
    let source: f64 = 2.5 * 5.0 / 4.1 - 0.5;
    let kernel = |x: f64| match x.abs() {
        x if x <= 1.0 => (1.25 * x - 2.25) * x * x + 1.0,
        x => ((-0.75 * x + 3.75) * x - 6.0) * x + 3.0,
    };
    let expected: f64 = (1..=4).map(|column| f64::from(column) * kernel(source - f64::from(column))).sum();
    assert!((f64::try_from(out.i((0, 1 + 2 * 4 + 2, 0))).unwrap() - expected).abs() < 1e-5);
    // DINOv2's own rule keeps a ramp's symmetry, the offset does not.
    let symmetric = resample_positions(&table, 4, PositionRule::Dinov2);
    let middle = symmetric.i((0, 1..5, 0)).mean(None);
    assert!((f64::try_from(middle).unwrap() - 2.0).abs() < 1e-5);
    assert!((f64::try_from(out.i((0, 1..5, 0)).mean(None)).unwrap() - 2.0).abs() > 1e-3);
}
