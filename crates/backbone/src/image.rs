use std::fmt;

use tch::{IndexOp, Tensor};
use torch_ext::ParamPath;
use torch_ext::flops::{Cost, Grad};
use weight_files::Settings;

use crate::Stage;
use crate::guest::{Guest, Register};
use crate::positions::PositionRule;
use crate::spec::{EncoderSpec, PixelInput};
use crate::variant::{Variant, sizes_that_differ};

/// Sizes and variants of an image encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageEncoderConfig {
    /// Token width D.
    pub width: i64,
    /// Number of blocks.
    pub depth: i64,
    /// Attention heads.
    pub n_heads: i64,
    /// Hidden width of the MLPs in units of D.
    pub mlp_ratio: i64,
    /// Side of a patch in pixels.
    pub patch_size: i64,
    /// Register tokens between class token and patches.
    pub n_registers: i64,
    /// Side of the stored position grid; resampled if the input's grid differs.
    pub position_grid: i64,
    /// How the position grid is resampled.
    pub position_rule: PositionRule,
    /// Whether the tokens between the blocks (the residual stream) have autocast's dtype under mixed precision, instead of
    /// float32.
    pub low_precision_tokens: bool,
    /// In what the blocks differ from the published ones.
    pub variant: Variant,
}

impl dyn ImageFamily + '_ {
    /// What the `config.json` beside weights says otherwise than a configuration, as the names of settings with both values. Tables
    /// of positions are left out: their shapes are checked when they are loaded.
    ///
    /// # Errors
    /// As [`ImageFamily::described`].
    pub fn differences(
        &self,
        cfg: &ImageEncoderConfig,
        settings: &Settings<'_>,
    ) -> Result<Vec<String>, String> {
        let other = self.described(settings)?;
        let sizes = [
            ("width", cfg.width, other.width),
            ("depth", cfg.depth, other.depth),
            ("n_heads", cfg.n_heads, other.n_heads),
            ("patch_size", cfg.patch_size, other.patch_size),
            ("n_registers", cfg.n_registers, other.n_registers),
            ("mlp_width", self.mlp_width(cfg), self.mlp_width(&other)),
        ];
        let ours = cfg.variant.or(self.published());
        let theirs = other.variant.or(self.published());
        Ok([sizes_that_differ(&sizes), ours.differences(&theirs)].concat())
    }
}

/// Patches along the two sides of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Grid {
    /// Patches from top to bottom.
    pub rows: i64,
    /// Patches from left to right.
    pub columns: i64,
}

impl Grid {
    /// The grid of a square image.
    pub fn square(side: i64) -> Self {
        Self { rows: side, columns: side }
    }

    /// The grid of a batch of images.
    ///
    /// - images: `[n, 3, height, width]`
    pub fn of(images: &Tensor, patch_size: i64) -> Self {
        let size = images.size();
        Self { rows: size[2] / patch_size, columns: size[3] / patch_size }
    }
}

/// An image encoder architecture: builds encoders of any size.
pub trait ImageFamily: fmt::Debug + Sync {
    /// Name in configs.
    fn name(&self) -> &'static str;

    /// Sizes and variants that the `config.json` of the `transformers` library beside published weights describes.
    ///
    /// # Errors
    /// When it describes another network, or switches something on that is not known here; the message names the setting.
    fn described(&self, settings: &Settings<'_>) -> Result<ImageEncoderConfig, String> {
        let _ = settings;
        Err(format!("a config.json is not known for the encoder `{}`", self.name()))
    }

    /// Checks what this design asks of the sizes besides what every design does.
    ///
    /// # Errors
    /// A sentence that names the setting.
    fn check(&self, cfg: &ImageEncoderConfig) -> Result<(), String> {
        let _ = cfg;
        Ok(())
    }

    /// Hidden width of the MLPs.
    fn mlp_width(&self, cfg: &ImageEncoderConfig) -> i64 {
        cfg.variant.mlp_width.unwrap_or(cfg.mlp_ratio.saturating_mul(cfg.width))
    }

    /// The variant of the published models.
    fn published(&self) -> Variant {
        Variant::default()
    }

    /// Specification of an encoder of these sizes.
    fn spec(&self, cfg: &ImageEncoderConfig) -> EncoderSpec<PixelInput>;

    /// Builds an encoder and registers its parameters below `path` in the official order.
    fn build(
        &self,
        path: &ParamPath,
        cfg: &ImageEncoderConfig,
        register: &mut Register<'_>,
    ) -> Box<dyn ImageEncoder>;

    /// FLOPs of a pass over one image of `side` x `side` patches.
    ///
    /// - grad: which gradients a block's linear layers need, by block index; embedding: whether the patch embedding trains
    fn cost(&self, cfg: &ImageEncoderConfig, side: i64, grad: &dyn Fn(i64) -> Grad, embedding: bool) -> Cost;

    /// Lower bound of the number of parameters. In floating point, because absurdly large sizes could overflow integers.
    fn least_values(&self, cfg: &ImageEncoderConfig) -> f64;
}

/// An image encoder with its parameters.
pub trait ImageEncoder: fmt::Debug {
    /// Specification of this encoder.
    fn spec(&self) -> &EncoderSpec<PixelInput>;

    /// Embeds images as tokens: special tokens, then patches in row-major order. They are the input of block 0.
    ///
    /// - images: `[n, 3, height, width]`, normalised, both multiples of the patch size; encoders with a table of positions take
    ///   squares only; result `[n, special + patches, D]`
    fn embed(&self, images: &Tensor, observe: &dyn Fn(Stage, &Tensor)) -> Tensor;

    /// Runs one block (from 0).
    ///
    /// - tokens: `[n, special + patches, D]`; result of the same shape, or with the batch size of the guest's update
    /// - grid: of the images that the tokens are of
    fn block(&self, index: usize, tokens: &Tensor, grid: Grid, guest: &Guest<'_>) -> Tensor;

    /// The final normalisation, over the last axis.
    fn normalise(&self, tokens: &Tensor) -> Tensor;
}

/// Outputs of an image encoder's forward pass.
#[derive(Debug)]
pub struct Features {
    /// Outputs of the tapped blocks, all tokens, not normalised.
    pub taps: Vec<Tensor>,
    /// Output of the last block, all tokens, not normalised.
    pub last: Tensor,
}

impl dyn ImageEncoder + '_ {
    /// Forward pass: embedding and all blocks.
    ///
    /// - images: `[n, 3, height, width]`, normalised; taps: blocks (from 0) whose outputs are kept
    /// - observe: called with the intermediate values
    pub fn forward(
        &self,
        images: &Tensor,
        taps: &[i64],
        guest: &Guest<'_>,
        observe: &dyn Fn(Stage, &Tensor),
    ) -> Features {
        let mut tokens = self.embed(images, observe);
        let grid = Grid::of(images, self.spec().input.patch_size);
        let mut kept = Vec::with_capacity(taps.len());
        for index in 0..self.n_blocks() {
            tokens = self.block(index, &tokens, grid, guest);
            observe(Stage::Block(index), &tokens);
            if taps.contains(&(index as i64)) {
                kept.push(tokens.shallow_clone());
            }
        }
        Features { taps: kept, last: tokens }
    }

    /// Number of blocks.
    pub fn n_blocks(&self) -> usize {
        usize::try_from(self.spec().depth).unwrap_or_default()
    }

    /// The patch tokens as a feature map, without the special tokens.
    ///
    /// - tokens: `[n, special + patches, D]`, result `[n, D, S / patch, S / patch]`
    pub fn map(&self, tokens: &Tensor) -> Tensor {
        let patches = tokens.i((.., self.spec().input.n_special.., ..)).transpose(1, 2); // n d p
        let side = (patches.size()[2] as f64).sqrt().round() as i64;
        patches.reshape([-1, self.spec().width, side, side])
    }
}

/// Selects rows of a tensor by index. Returns `xs` itself if there are no indices.
///
/// - rows: int64 `[batch]`
pub fn rows_of(xs: &Tensor, rows: Option<&Tensor>) -> Tensor {
    rows.map_or_else(|| xs.shallow_clone(), |rows| xs.index_select(0, rows))
}
