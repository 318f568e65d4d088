//! Tests of the encoders with numbers that can be checked by hand.

use backbone::guest::{Addition, AtMlp, nobody};
use backbone::{
    Grid, ImageDesign, ImageEncoderConfig, PositionRule, TEXT_ENCODERS, TextDesign, TextEncoderConfig,
    Variant, resample_positions, unobserved,
};
use serde_json::json;
use tch::{Device, IndexOp, Kind, Tensor};
use torch_ext::Store;
use weight_files::Settings;

const PLACE: (Kind, Device) = (Kind::Double, Device::Cpu);

fn store() -> Store {
    tch::manual_seed(5);
    Store::new(Device::Cpu, Kind::Double)
}

fn largest(xs: &Tensor) -> f64 {
    f64::try_from(xs.abs().max()).unwrap()
}

fn text_config() -> TextEncoderConfig {
    TextEncoderConfig {
        width: 16,
        depth: 2,
        n_heads: 2,
        vocabulary: 50,
        context: 12,
        state_width: 16,
        variant: Variant::default(),
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
        variant: Variant::default(),
    }
}

#[test]
fn the_sentence_vector_is_read_at_the_end_token() {
    let store = store();
    let encoder = TextDesign::PUBLISHED.build(&store.root(), &text_config(), &mut |_, _| {});
    let ids = Tensor::from_slice(&[48_i64, 3, 49, 0, 0, 48, 7, 8, 49, 0]).view([2, 5]);
    let out = encoder.forward(&ids, &nobody, &unobserved);
    let projection = store.get("text_projection").unwrap();
    let expected = Tensor::stack(&[out.words.i((0, 2)), out.words.i((1, 3))], 0).matmul(&projection);
    assert!(largest(&(out.state - expected)) < 1e-12);
    let zeros = encoder.forward(&Tensor::zeros([1, 5], (Kind::Int64, Device::Cpu)), &nobody, &unobserved);
    assert!(largest(&(zeros.state - zeros.words.i((.., 0)).matmul(&projection))) < 1e-12);
}

#[test]
fn taps_are_maps_and_registers_have_no_positions() {
    let store = store();
    let encoder = ImageDesign::PUBLISHED.build(&store.root(), &image_config(), &mut |_, _| {});
    let images = Tensor::randn([2, 3, 12, 12], PLACE);
    let tokens = encoder.embed(&images, &unobserved);
    assert_eq!(tokens.size(), [2, 1 + 2 + 9, 16]);
    assert_eq!(tokens.i((0, 1..3)), store.get("register_tokens").unwrap().i(0));
    let features = encoder.forward(&images, &[0, 1], &nobody, &unobserved);
    assert_eq!(features.taps.len(), 2);
    for tokens in features.taps.iter().chain([&features.last]) {
        assert_eq!(encoder.map(tokens).size(), [2, 16, 3, 3]);
    }
    // Positions are added to class token and patches; patch 4 is row 1, column 1.
    let patch = images.i((0, .., 4..8, 4..8)).reshape([48]);
    let weight = store.get("patch_embed.proj.weight").unwrap().view([16, 48]);
    let bias = store.get("patch_embed.proj.bias").unwrap();
    let expected = weight.mv(&patch) + bias + store.get("pos_embed").unwrap().i((0, 1 + 4));
    assert!(largest(&(tokens.i((0, 3 + 4)) - expected)) < 1e-12);
}

#[test]
fn a_guest_adds_to_the_blocks_it_answers() {
    let store = store();
    let mut seen = Vec::new();
    let encoder = ImageDesign::PUBLISHED.build(&store.root(), &image_config(), &mut |block, path| {
        seen.push((block, path.name().to_owned()));
    });
    assert_eq!(seen, (0..3).map(|block| (block, format!("blocks.{block}"))).collect::<Vec<_>>());
    let tokens = encoder.embed(&Tensor::randn([1, 3, 12, 12], PLACE), &unobserved);
    let plain = encoder.block(1, &tokens, Grid::square(3), &nobody);
    // LayerScale starts at 1, so an update of ones with a gate of 0.5 adds 0.5.
    let half = |at: AtMlp<'_>| {
        assert_eq!((at.block, at.residual.size()), (1, at.normalised.size()));
        let gate = Some(Tensor::full([16], 0.5, PLACE));
        Some(Addition { update: at.residual.ones_like(), gate, rows: None })
    };
    assert!(largest(&(encoder.block(1, &tokens, Grid::square(3), &half) - &plain - 0.5)) < 1e-12);
    // Two sentences about one image: from this block on, each has its own row.
    let rows = Tensor::from_slice(&[0_i64, 0]);
    let two = |at: AtMlp<'_>| {
        let update = Tensor::zeros([2, at.residual.size()[1], 16], PLACE);
        Some(Addition { update, gate: None, rows: Some(rows.shallow_clone()) })
    };
    let spread = encoder.block(1, &tokens, Grid::square(3), &two);
    assert!(spread.size()[0] == 2 && largest(&(spread - plain)) < 1e-12);
}

#[test]
fn designs_are_named_and_unknown_ones_refused() {
    let name = String::from(ImageDesign::PUBLISHED);
    assert_eq!(ImageDesign::try_from(name).unwrap(), ImageDesign::PUBLISHED);
    let error = TextDesign::try_from("clap".to_owned()).unwrap_err();
    assert!(error.contains("`clap`") && error.contains("clip"), "{error}");
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
    // DINOv2's own rule keeps a ramp's symmetry; the rule with the offset does not.
    let symmetric = resample_positions(&table, 4, PositionRule::Dinov2);
    let middle = symmetric.i((0, 1..5, 0)).mean(None);
    assert!((f64::try_from(middle).unwrap() - 2.0).abs() < 1e-5);
    assert!((f64::try_from(out.i((0, 1..5, 0)).mean(None)).unwrap() - 2.0).abs() > 1e-3);
    // So does the plain rule, with other values: it does not antialias.
    let plain = resample_positions(&table, 3, PositionRule::Plain).i((0, 1..4, 0));
    let antialiased = resample_positions(&table, 3, PositionRule::Dinov2).i((0, 1..4, 0));
    assert!((f64::try_from(plain.mean(None)).unwrap() - 2.0).abs() < 1e-5);
    assert!(f64::try_from((plain - antialiased).abs().max()).unwrap() > 1e-3);
}

#[test]
fn dinov2_takes_any_grid() {
    let cfg = ImageEncoderConfig { n_registers: 0, position_rule: PositionRule::Plain, ..image_config() };
    let design = ImageDesign::try_from("dinov2".to_owned()).unwrap();
    let encoder = design.build(&store().root(), &cfg, &mut |_, _| {});
    let tokens = encoder.embed(&Tensor::zeros([1, 3, 8, 20], PLACE), &unobserved);
    assert_eq!(tokens.size(), [1, 1 + 2 * 5, cfg.width]);
    // Every patch of the grid has a position of its own.
    let distances = tokens.i((0, 1..)).unsqueeze(0) - tokens.i((0, 1..)).unsqueeze(1);
    let near = distances.abs().amax([-1].as_slice(), false).le(1e-6).sum(Kind::Int64);
    assert_eq!(i64::try_from(near).unwrap(), 10);
}

#[test]
fn a_config_json_says_where_clip_s_sentences_end() {
    let described = |config: serde_json::Value| {
        let clip = TEXT_ENCODERS.iter().find(|family| family.name() == "clip").unwrap();
        clip.described(&Settings::new(&config)).map(|cfg| cfg.vocabulary)
    };
    // 2 stands in old files, and means the same.
    for end in [2, 99] {
        assert_eq!(described(json!({"vocab_size": 100, "eos_token_id": end})), Ok(100));
    }
    let error = described(json!({"text_config": {"vocab_size": 100, "eos_token_id": 50}})).unwrap_err();
    assert!(error.contains("eos_token_id is 50"), "{error}");
    // What is switched on and not known is found at every depth.
    let nested = json!({"text_config_dict": null, "text_config": {"new_norm": "rms"}});
    assert!(described(nested).unwrap_err().contains("new_norm"));
    let above = json!({"text_config": {"vocab_size": 100}, "quantization_config": {"bits": 4}});
    assert!(described(above).unwrap_err().contains("quantization_config"));
}
