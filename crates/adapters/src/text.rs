use std::collections::BTreeMap;

use backbone::guest::{Addition, AtMlp};
use tch::Tensor;
use torch_ext::flops::{Cost, Grad};
use torch_ext::layers::{Linear, Mode};
use torch_ext::{Group, Init, OptimizerGroup, ParamPath, Trains};

use crate::dense::{DenseBranches, Domain};
use crate::ends_cost;

/// Weight of a text adapter's output: a literal constant of the official code (quirk Q3).
const GATE: f64 = 0.2;

/// Parameter group of the text adapters.
pub const TEXT_ADAPTERS: Group = Group {
    name: "text_adapters",
    part_of: Some("adapters"),
    optimizer: OptimizerGroup::Encoders,
    trains: Trains::Always,
};

/// Which blocks of a text encoder have an adapter, and the adapters' widths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextAdaptersConfig {
    /// Blocks (from 0) with an adapter.
    pub blocks: Vec<i64>,
    /// Width T of a word.
    pub text_width: i64,
    /// Bottleneck width r, a multiple of 16.
    pub bottleneck: i64,
}

/// All adapters of a text encoder.
#[derive(Debug)]
pub struct TextAdapters {
    cfg: TextAdaptersConfig,
    by_block: BTreeMap<usize, TextAdapter>,
}

impl TextAdapters {
    /// Starts without adapters; [`TextAdapters::register`] adds them.
    pub fn new(cfg: TextAdaptersConfig) -> Self {
        Self { cfg, by_block: BTreeMap::new() }
    }

    /// Registers the adapter of a block below `adapter`, if the config lists the block.
    pub fn register(&mut self, block: usize, path: &ParamPath) {
        if self.cfg.blocks.contains(&(block as i64)) {
            let path = path.in_group(TEXT_ADAPTERS) / "adapter";
            let adapter = TextAdapter::new(&path, self.cfg.text_width, self.cfg.bottleneck);
            self.by_block.insert(block, adapter);
        }
    }

    /// The adapter of a block, if it has one.
    pub fn get(&self, block: usize) -> Option<&TextAdapter> {
        self.by_block.get(&block)
    }

    /// The guest that hooks the adapters into the encoder's blocks. An adapter reads the residual stream before normalisation.
    pub fn guest(&self, mode: Mode) -> impl Fn(AtMlp<'_>) -> Option<Addition> {
        move |at| {
            let update = self.get(at.block)?.forward(at.residual, mode) * GATE;
            Some(Addition { update, gate: None, rows: None })
        }
    }

    /// FLOPs over one sentence of `word_len` tokens.
    ///
    /// - grad: which gradients a block's linear layers need, by block index
    pub fn cost(cfg: &TextAdaptersConfig, word_len: i64, grad: &dyn Fn(i64) -> Grad) -> Cost {
        let adapter = |&block: &i64| {
            // Position 0 does not take part in the convolutions.
            ends_cost(word_len, cfg.text_width, cfg.bottleneck, grad(block))
                + DenseBranches::cost(word_len - 1, cfg.bottleneck, 1)
        };
        cfg.blocks.iter().map(adapter).sum()
    }

    /// Lower bound of the number of parameters.
    pub fn least_values(cfg: &TextAdaptersConfig) -> f64 {
        cfg.blocks.len() as f64 * 2.0 * cfg.text_width as f64 * cfg.bottleneck as f64
    }
}

/// Text adapter (specification, section 3.5): down-projection to the bottleneck, dense branches over the words, up-projection.
///
/// Position 0 is set aside as if it were a class token and ends up doubled (quirk Q4); padding takes part in the
/// convolutions and in the batch statistics (Q5).
#[derive(Debug)]
pub struct TextAdapter {
    dense: DenseBranches,
    down: Linear,
    up: Linear,
}

impl TextAdapter {
    /// Registers the dense branches, `D_fc1` and `D_fc2`.
    pub fn new(path: &ParamPath, width: i64, bottleneck: i64) -> Self {
        let dense = DenseBranches::new(path, Domain::Sentence, bottleneck);
        let linear = |name: &str, n_in: i64, n_out: i64| {
            let init = Init::UniformHalf(1.0 / (n_in as f64).sqrt());
            Linear::new(&(path / name), n_in, n_out, init, init)
        };
        Self { dense, down: linear("D_fc1", width, bottleneck), up: linear("D_fc2", bottleneck, width) }
    }

    /// - words: `[batch, K, T]`, not normalised; result of the same shape, without an outer skip connection
    pub fn forward(&self, words: &Tensor, mode: Mode) -> Tensor {
        let narrow = self.down.forward(words).relu(); // b k r
        let parts = narrow.split_with_sizes([1, narrow.size()[1] - 1], 1);
        let rest = self.dense.forward(&parts[1].transpose(1, 2), mode).transpose(1, 2);
        self.up.forward(&(Tensor::cat(&[&parts[0], &rest], 1) + narrow))
    }
}
