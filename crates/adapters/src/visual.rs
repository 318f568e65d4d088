use std::collections::BTreeMap;

use backbone::guest::{Addition, AtMlp};
use backbone::rows_of;
use rca::WordUnitConfig;
use serde::{Deserialize, Serialize};
use tch::Tensor;
use torch_ext::flops::{Cost, Grad};
use torch_ext::layers::{Linear, Mode};
use torch_ext::{Group, Init, OptimizerGroup, ParamPath, Trains};
use tracing::trace_span;

use crate::dense::{DenseBranches, Domain};
use crate::ends_cost;
use crate::word_unit::{AdapterFusion, WordUnit};

const GATE_START: f64 = 0.2;

/// Parameter group of the visual adapters.
pub const VISUAL_ADAPTERS: Group = Group {
    name: "visual_adapters",
    part_of: Some("adapters"),
    optimizer: OptimizerGroup::Encoders,
    trains: Trains::Always,
};

/// Parameter group of the visual adapters' gates.
const GATES: Group = Group { name: "gates", part_of: None, ..VISUAL_ADAPTERS };

/// Whether the adapters' gates train.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gate {
    /// Constant 0.2, as the official weights were trained (quirk Q1).
    Frozen,
    /// Trained with the adapters, as the paper describes.
    Learned,
}

/// Which blocks of an image encoder have an adapter, and the adapters' sizes and variants.
#[derive(Debug, Clone, PartialEq)]
pub struct VisualAdaptersConfig {
    /// Blocks (from 0) with an adapter.
    pub blocks: Vec<i64>,
    /// Width D of the encoder.
    pub image_width: i64,
    /// Tokens in front of the patches: class and registers.
    pub n_special: i64,
    /// Sizes of the cross-modal unit.
    pub unit: WordUnitConfig,
    /// Kind of cross-modal unit.
    pub fusion: AdapterFusion,
    /// Whether the gates are frozen or learned.
    pub gate: Gate,
}

/// All adapters of an image encoder.
#[derive(Debug)]
pub struct VisualAdapters {
    cfg: VisualAdaptersConfig,
    /// Adapter and gate `[D]` by block index.
    by_block: BTreeMap<usize, (VisualAdapter, Tensor)>,
}

impl VisualAdapters {
    /// Starts without adapters; [`VisualAdapters::register`] adds them.
    pub fn new(cfg: VisualAdaptersConfig) -> Self {
        Self { cfg, by_block: BTreeMap::new() }
    }

    /// Registers the adapter of a block below `adapter` and its gate as `ls_gate.gamma`, if the config lists the block.
    pub fn register(&mut self, block: usize, path: &ParamPath) {
        if self.cfg.blocks.contains(&(block as i64)) {
            let adapter = VisualAdapter::new(&(path.in_group(VISUAL_ADAPTERS) / "adapter"), &self.cfg);
            let gates = path.in_group(GATES) / "ls_gate";
            let gates = match self.cfg.gate {
                Gate::Frozen => gates.frozen(),
                Gate::Learned => gates,
            };
            let gate = gates.parameter("gamma", &[self.cfg.image_width], Init::Const(GATE_START));
            self.by_block.insert(block, (adapter, gate));
        }
    }

    /// The adapter of a block, if it has one.
    pub fn get(&self, block: usize) -> Option<&VisualAdapter> {
        self.by_block.get(&block).map(|(adapter, _)| adapter)
    }

    /// The guest that hooks the adapters into the encoder's blocks. Each image is encoded once up to the first adapter's
    /// cross-modal unit, even if several sentences are about it.
    ///
    /// - words: `[batch, K, T]`
    /// - image_of: int64 `[batch]`, index of the image that each sentence is about; without it, each sentence has its own image
    /// - observe: called with the block index and the patches that enter its cross-modal unit, `[batch, patches, r]`
    pub fn guest<'a>(
        &'a self,
        words: &'a Tensor,
        image_of: Option<&'a Tensor>,
        mode: Mode,
        observe: &'a dyn Fn(usize, &Tensor),
    ) -> impl Fn(AtMlp<'_>) -> Option<Addition> + 'a {
        move |at| {
            let (adapter, gate) = self.by_block.get(&at.block)?;
            let _span = trace_span!("adapters").entered();
            // From the first adapter on, the residual stream has one row per sentence.
            let rows = image_of.filter(|_| at.normalised.size()[0] != words.size()[0]);
            let update = adapter.forward_shared(at.normalised, rows, words, mode, &|patches| {
                observe(at.block, patches);
            });
            Some(Addition { update, gate: Some(gate.shallow_clone()), rows: rows.map(Tensor::shallow_clone) })
        }
    }

    /// FLOPs over one image of `patches` patches.
    ///
    /// - grad: which gradients a block's linear layers need, by block index
    pub fn cost(cfg: &VisualAdaptersConfig, patches: i64, grad: &dyn Fn(i64) -> Grad) -> Cost {
        let r = cfg.unit.bottleneck;
        let adapter = |&block: &i64| {
            ends_cost(cfg.n_special + patches, cfg.image_width, r, grad(block))
                + DenseBranches::cost(patches, r, 2)
                + WordUnit::cost(cfg.fusion, cfg.unit, patches)
        };
        cfg.blocks.iter().map(adapter).sum()
    }

    /// Lower bound of the number of parameters.
    pub fn least_values(cfg: &VisualAdaptersConfig) -> f64 {
        let ends = 2.0 * cfg.image_width as f64 * cfg.unit.bottleneck as f64;
        cfg.blocks.len() as f64 * (ends + WordUnit::least_values(cfg.fusion, cfg.unit))
    }
}

/// Visual adapter (specification, section 4.6): down-projection to the bottleneck, dense branches over the patches, cross-modal
/// unit, up-projection.
///
/// The special tokens pass only the bottleneck and end up doubled. The bottleneck values of the patches are added both before
/// and after the cross-modal unit (quirk Q11).
#[derive(Debug)]
pub struct VisualAdapter {
    dense: DenseBranches,
    down: Linear,
    up: Linear,
    cross: WordUnit,
    n_special: i64,
}

impl VisualAdapter {
    /// Registers the dense branches, `D_fc1`, `D_fc2` and `cross`.
    pub fn new(path: &ParamPath, cfg: &VisualAdaptersConfig) -> Self {
        let r = cfg.unit.bottleneck;
        let linear = |name: &str, n_in: i64, n_out: i64| {
            // The official encoder's constructor initialises the adapters' linear layers again (quirk Q2).
            Linear::new(&(path / name), n_in, n_out, Init::Normal(WordUnitConfig::INIT_STD), Init::Const(0.0))
        };
        Self {
            dense: DenseBranches::new(path, Domain::Grid, r),
            down: linear("D_fc1", cfg.image_width, r),
            up: linear("D_fc2", r, cfg.image_width),
            cross: WordUnit::new(&(path / "cross"), cfg.fusion, cfg.unit),
            n_special: cfg.n_special,
        }
    }

    /// The cross-modal unit.
    pub fn unit(&self) -> &WordUnit {
        &self.cross
    }

    /// - tokens: `[batch, special + H * W, D]` with H = W; words: `[batch, K, T]`; result like tokens
    pub fn forward(&self, tokens: &Tensor, words: &Tensor, mode: Mode) -> Tensor {
        self.forward_shared(tokens, None, words, mode, &|_| {})
    }

    /// As [`VisualAdapter::forward`], with images shared between sentences.
    ///
    /// - image_of: int64 `[batch]`, the row of `tokens` for each sentence; without it, each sentence has its own row
    /// - observe: called with the patches that enter the cross-modal unit
    fn forward_shared(
        &self,
        tokens: &Tensor,
        image_of: Option<&Tensor>,
        words: &Tensor,
        mode: Mode,
        observe: &dyn Fn(&Tensor),
    ) -> Tensor {
        let narrow = self.down.forward(tokens).relu(); // b n r
        let n_patches = narrow.size()[1] - self.n_special;
        let parts = narrow.split_with_sizes([self.n_special, n_patches], 1);
        let [special, patches] = [&parts[0], &parts[1]];
        let (b, n, r) = (patches.size()[0], patches.size()[1], patches.size()[2]);
        let side = (n as f64).sqrt() as i64;
        let grid = patches.transpose(1, 2).reshape([b, r, side, side]);
        let mixed = (self.dense.forward(&grid, mode) + grid).flatten(2, 3).transpose(1, 2); // b n r
        let (narrow, special) = (rows_of(&narrow, image_of), rows_of(special, image_of));
        let mixed = rows_of(&mixed, image_of);
        observe(&mixed);
        let seen = self.cross.forward(&mixed, words, mode);
        self.up.forward(&(Tensor::cat(&[special, seen], 1) + narrow))
    }
}
