//! Encoding an image once for several expressions gives the same results as encoding it for each expression.

use talent::{AdapterFusion, ModelConfig, Pass, Talent};
use tch::{Device, Kind, Tensor};

fn difference(cfg: &ModelConfig) -> f64 {
    let place = (Kind::Double, Device::Cpu);
    let model = Talent::seeded(cfg, Device::Cpu, Kind::Double, 1).unwrap();
    tch::manual_seed(0);
    let images = Tensor::randn([2, 3, cfg.input_size, cfg.input_size], place);
    let image_of = Tensor::from_slice(&[1_i64, 0, 1, 1, 0]);
    let words = Tensor::randint_low(1, 40_000, [5, cfg.word_len], (Kind::Int64, Device::Cpu));
    let (shared, single) = tch::no_grad(|| {
        let single = model.forward(&images.index_select(0, &image_of), &words, &Pass::EVAL);
        let pass = Pass { image_of: Some(&image_of), ..Pass::EVAL };
        (model.forward(&images, &words, &pass), single)
    });
    let pairs = shared.taps.iter().zip(&single.taps).chain([(&shared.logits, &single.logits)]);
    let distance = |(a, b): (&Tensor, &Tensor)| {
        assert_eq!(a.size(), b.size());
        f64::try_from((a - b).abs().max()).unwrap()
    };
    pairs.map(distance).fold(0.0, f64::max)
}

#[test]
fn sharing_images_changes_nothing() {
    let tiny = ModelConfig::tiny();
    let mut late = tiny.clone();
    // The first tap comes before the first adapter.
    late.image.adapter_blocks = vec![4];
    late.image.taps = [1, 5];
    let mut none = tiny.clone();
    none.image.adapter_blocks = vec![];
    let mut first = tiny.clone();
    first.image.adapter_blocks = vec![0, 1];
    let mut blind = tiny.clone();
    blind.image.fusion = AdapterFusion::None;
    for cfg in [tiny, late, none, first, blind] {
        let difference = difference(&cfg);
        assert!(difference < 1e-12, "{difference}: adapters in {:?}", cfg.image.adapter_blocks);
    }
}
