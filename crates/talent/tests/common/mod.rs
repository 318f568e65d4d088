//! Recordings of the official implementation, and the miniature network they were made with.

#![allow(dead_code, reason = "not every test uses all of it")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use talent::{ModelConfig, Talent};
use tch::{Device, Kind, Tensor};

pub(crate) fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../parity/tests/golden").join(name)
}

pub(crate) fn recording(case: &str) -> BTreeMap<String, Tensor> {
    Tensor::read_safetensors(golden(&format!("{case}.safetensors"))).unwrap().into_iter().collect()
}

/// The sizes of the recorded model.
pub(crate) fn miniature() -> ModelConfig {
    let mut cfg = ModelConfig::base();
    cfg.input_size = 56;
    cfg.image.width = 24;
    cfg.image.depth = 4;
    cfg.image.n_heads = 4;
    cfg.image.position_grid = 5;
    cfg.image.taps = [1, 2];
    cfg.image.adapter_blocks = vec![1, 3];
    cfg.image.adapter_width = 16;
    cfg.image.fusion_width = 20;
    cfg.text.width = 16;
    cfg.text.state_width = 16;
    cfg.text.depth = 4;
    cfg.text.n_heads = 4;
    cfg.text.vocabulary = 64;
    cfg.text.adapter_blocks = vec![1, 3];
    cfg.text.adapter_width = 16;
    cfg.head.width = 16;
    cfg.decoder.depth = 2;
    cfg.decoder.n_heads = 4;
    cfg.decoder.ffn_width = 40;
    cfg.decoder.dropout = 0.0;
    cfg
}

pub(crate) fn recorded_model(kind: Kind) -> Talent {
    let model = Talent::new(&miniature(), Device::Cpu, kind).unwrap();
    let mut recorded = recording("model_init");
    for (name, _) in model.store().entries() {
        let value = recorded.remove(&name).unwrap_or_else(|| panic!("{name} is not recorded"));
        model.store().assign(&name, &value).unwrap();
    }
    assert!(recorded.is_empty(), "the model lacks {:?}", recorded.keys());
    model
}

/// Largest difference in units of `max(1, largest expected entry)`.
#[track_caller]
pub(crate) fn assert_close(name: &str, found: &Tensor, expected: &Tensor, tolerance: f64) {
    let expected = expected.view_as(found).to_kind(Kind::Double);
    let scale = f64::try_from(expected.abs().max()).unwrap().max(1.0);
    let error = f64::try_from((found.to_kind(Kind::Double) - &expected).abs().max()).unwrap() / scale;
    assert!(error <= tolerance, "{name}: {error:e} exceeds {tolerance:e}");
}
