//! Configs whose sizes do not fit together are rejected, and the error names the sizes.

use talent::{AdapterFusion, ModelConfig, NeckFusion};

#[test]
fn presets_fit_together() {
    for config in [ModelConfig::tiny(), ModelConfig::base(), ModelConfig::large()] {
        config.validate().unwrap();
    }
    assert_eq!(ModelConfig::base().grid(), 32);
}

#[test]
fn misfits_are_named() {
    type Spoil = fn(&mut ModelConfig);
    let cases: [(&str, Spoil); 10] = [
        ("input_size (100)", |cfg| cfg.input_size = 100),
        ("word_len (99)", |cfg| cfg.word_len = 99),
        ("image.n_heads", |cfg| cfg.image.n_heads = 7),
        ("image.taps (8, 4)", |cfg| cfg.image.taps = [8, 4]),
        ("image.adapter_blocks names block 12", |cfg| cfg.image.adapter_blocks = vec![12]),
        ("text.adapter_width (24)", |cfg| cfg.text.adapter_width = 24),
        ("must be equal", |cfg| cfg.text.state_width = 256),
        ("decoder.dropout", |cfg| cfg.decoder.dropout = 1.0),
        ("image.fusion_width (100)", |cfg| {
            cfg.image.fusion = AdapterFusion::CrossAttention;
            cfg.image.fusion_width = 100;
        }),
        ("head.width (12)", |cfg| {
            cfg.head.fusion = NeckFusion::CrossAttention;
            cfg.head.width = 12;
            cfg.decoder.n_heads = 4;
        }),
    ];
    for (part, spoil) in cases {
        let mut config = ModelConfig::base();
        spoil(&mut config);
        let message = config.validate().unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
}
