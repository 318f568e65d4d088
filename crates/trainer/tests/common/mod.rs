//! Helpers for tests of the `talent` program.

mod program;

pub(crate) use program::talent;

/// Overrides for a network so small that it trains within moments.
pub(crate) const MINIATURE: &[&str] = &[
    "model.input_size=32",
    "model.image.width=16",
    "model.image.depth=2",
    "model.image.n_heads=2",
    "model.image.patch_size=8",
    "model.image.position_grid=4",
    "model.image.taps=[0,1]",
    "model.image.adapter_blocks=[1]",
    "model.image.adapter_width=16",
    "model.text.width=16",
    "model.text.state_width=16",
    "model.text.depth=1",
    "model.text.n_heads=2",
    "model.text.adapter_blocks=[0]",
    "model.text.adapter_width=16",
    "model.head.width=16",
    "model.decoder.depth=1",
    "model.decoder.n_heads=2",
    "model.decoder.ffn_width=16",
    "train.batch_size=8",
    "train.warmup_steps=2",
];
