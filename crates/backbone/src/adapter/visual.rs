use rca::{AdapterFusion, WordUnit, WordUnitConfig};
use tch::Tensor;
use torch_ext::layers::{Linear, Mode};
use torch_ext::{Init, Path};

use super::dense::{DenseBranches, Domain};
use crate::dinov2::rows_of;

/// Sizes of a visual adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VisualAdapterConfig {
    /// Width D of the encoder.
    pub image_width: i64,
    /// Tokens in front of the patches: class and registers.
    pub n_special: i64,
    /// Sizes of the cross-modal unit.
    pub unit: WordUnitConfig,
    /// The cross-modal unit.
    pub fusion: AdapterFusion,
}

/// Visual adapter (specification, section 4): bottleneck, dense branches over the patches, cross-modal unit, back.
///
/// The special tokens pass the bottleneck only and end up doubled; the patches get their bottleneck values added
/// before the cross-modal unit and after it (quirk Q11).
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
    pub fn new(path: &Path, cfg: VisualAdapterConfig) -> Self {
        let r = cfg.unit.bottleneck;
        let linear = |name: &str, n_in: i64, n_out: i64| {
            // N(0.02): the encoder's constructor re-initialises every linear layer below it (quirk Q2).
            Linear::new(&(path / name), n_in, n_out, Init::Normal(0.02), Init::Const(0.0))
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
        self.forward_shared(tokens, None, words, mode, &mut |_| {})
    }

    /// As [`VisualAdapter::forward`]; `observe` sees the patches that enter the cross-modal unit.
    ///
    /// - image_of: int64 `[batch]`, which tokens belong to a sentence; without it there are as many as sentences
    pub(crate) fn forward_shared(
        &self,
        tokens: &Tensor,
        image_of: Option<&Tensor>,
        words: &Tensor,
        mode: Mode,
        observe: &mut dyn FnMut(&Tensor),
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
