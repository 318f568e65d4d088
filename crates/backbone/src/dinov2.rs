//! DINOv2 with registers, with TALENT's visual adapters beside some of its MLPs (specification, section 4).

use rca::{AdapterFusion, WordUnitConfig};
use serde::{Deserialize, Serialize};
use tch::{IndexOp, Kind, Tensor};
use torch_ext::layers::{LayerNorm, Linear, Mode, attention, grid_positions, scaled_sum};
use torch_ext::{Autocast, Init, Path, Remembered, write_count};
use tracing::trace_span;

use crate::adapter::{VisualAdapter, VisualAdapterConfig};
use crate::positions::{PositionRule, resample_positions};
use crate::stage::Stage;

const NORM_EPS: f64 = 1e-6;
const GATE_START: f64 = 0.2;

/// What becomes of the adapters' gates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gate {
    /// Constant 0.2, as the official weights were trained (quirk Q1).
    Frozen,
    /// Trained with the adapters, as the paper describes.
    Learned,
}

/// Sizes of the image encoder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageEncoderConfig {
    /// Token width D.
    pub width: i64,
    /// Blocks.
    pub depth: i64,
    /// Attention heads.
    pub n_heads: i64,
    /// Hidden width of the MLPs in units of D.
    pub mlp_ratio: i64,
    /// Side of a patch in pixels.
    pub patch_size: i64,
    /// Register tokens between class token and patches.
    pub n_registers: i64,
    /// Side of the stored position grid (37 in the published weights); resampled if the input's grid differs.
    pub position_grid: i64,
    /// How it is resampled.
    pub position_rule: PositionRule,
    /// The two blocks (from 0) whose outputs are tapped, besides the normalised final output.
    pub taps: [i64; 2],
    /// Blocks (from 0) with an adapter.
    pub adapter_blocks: Vec<i64>,
    /// Bottleneck width r of the adapters, a multiple of 16.
    pub adapter_width: i64,
    /// Common width e of patches and words in the adapters' cross-modal unit.
    pub fusion_width: i64,
    /// The adapters' cross-modal unit.
    pub fusion: AdapterFusion,
    /// The adapters' gates.
    pub gate: Gate,
    /// Whether the tokens between the blocks are in mixed precision's dtype, too, where there is one; otherwise they are
    /// float32, as autocast leaves them. Half of the bytes between products; each sum is rounded to 8 (bf16) or 11 bits.
    #[serde(default)]
    pub low_precision_tokens: bool,
}

/// DINOv2 with registers and visual adapters.
#[derive(Debug)]
pub struct ImageEncoder {
    cls_token: Tensor,
    pos_embed: Tensor,
    register_tokens: Tensor,
    patch_weight: Tensor,
    patch_bias: Tensor,
    blocks: Vec<ImageBlock>,
    norm: LayerNorm,
    /// The resampled position table, by its side and by how often the table was written to.
    resampled: Remembered<(i64, u64)>,
    cfg: ImageEncoderConfig,
}

impl ImageEncoder {
    /// Registers everything below `dinov2` in the official order.
    ///
    /// - word_len, text_width: K and T of the words the adapters will see
    pub fn new(path: &Path, cfg: &ImageEncoderConfig, word_len: i64, text_width: i64) -> Self {
        let d = cfg.width;
        let cls_token = path.parameter("cls_token", &[1, 1, d], Init::Normal(1e-6));
        let pos_embed =
            path.parameter("pos_embed", &[1, 1 + cfg.position_grid * cfg.position_grid, d], Init::Const(0.0));
        start_positions(&pos_embed, cfg.position_grid);
        let register_tokens = path.parameter("register_tokens", &[1, cfg.n_registers, d], Init::Normal(1e-6));
        // Part of the published files; used only when patches are masked, as in DINOv2's own training.
        let _ = path.parameter("mask_token", &[1, d], Init::Const(0.0));
        let patch = path / "patch_embed" / "proj";
        let fan_in = (3 * cfg.patch_size * cfg.patch_size) as f64;
        let patch_init = Init::Uniform(1.0 / fan_in.sqrt());
        Self {
            cls_token,
            pos_embed,
            register_tokens,
            patch_weight: patch.parameter("weight", &[d, 3, cfg.patch_size, cfg.patch_size], patch_init),
            patch_bias: patch.parameter("bias", &[d], patch_init),
            blocks: (0..cfg.depth)
                .map(|index| ImageBlock::new(&(path / "blocks" / index), cfg, index, word_len, text_width))
                .collect(),
            norm: LayerNorm::new(&(path / "norm"), d, NORM_EPS),
            resampled: Remembered::default(),
            cfg: cfg.clone(),
        }
    }

    /// The three levels of features: the tapped blocks' raw outputs and the normalised final output.
    ///
    /// - images: `[batch, 3, S, S]`, normalised, S a multiple of the patch size; words: `[batch, K, T]`
    /// - result: three maps `[batch, D, S / patch, S / patch]`
    pub fn forward(&self, images: &Tensor, words: &Tensor, mode: Mode) -> [Tensor; 3] {
        self.forward_shared(images, None, words, mode, &mut |_, _| {})
    }

    /// As [`ImageEncoder::forward`] for expressions that may share images; `observe` sees what passes on the way. Up to
    /// the first adapter's cross-modal unit, every image is computed once.
    ///
    /// - images: `[m, 3, S, S]`; image_of: int64 `[batch]`, the image each sentence is about; without it m is the batch
    pub fn forward_shared(
        &self,
        images: &Tensor,
        image_of: Option<&Tensor>,
        words: &Tensor,
        mode: Mode,
        observe: &mut dyn FnMut(Stage, &Tensor),
    ) -> [Tensor; 3] {
        let mut tokens = self.embed_observed(images, observe);
        let mut taps = Vec::with_capacity(3);
        let mut spread = false;
        for (index, block) in self.blocks.iter().enumerate() {
            let image_of = image_of.filter(|_| !spread);
            tokens = block.forward_shared(&tokens, image_of, words, mode, &mut |patches| {
                observe(Stage::AdapterPatches(index), patches);
            });
            spread |= block.adapter.is_some();
            observe(Stage::ImageBlock(index), &tokens);
            if self.cfg.taps.contains(&(index as i64)) {
                taps.push(tokens.shallow_clone());
            }
        }
        let batch = words.size()[0];
        let of_all = |tokens: &Tensor| {
            if tokens.size()[0] == batch { tokens.shallow_clone() } else { rows_of(tokens, image_of) }
        };
        self.levels([&of_all(&taps[0]), &of_all(&taps[1])], &of_all(&tokens))
    }

    /// The three levels of features from the tokens that the tapped blocks and the last block end with.
    ///
    /// - taps, last: `[batch, 1 + registers + patches, D]` each; result as of [`ImageEncoder::forward`]
    pub fn levels(&self, taps: [&Tensor; 2], last: &Tensor) -> [Tensor; 3] {
        [taps[0], taps[1], &normalised(&self.norm, last)].map(|tokens| {
            let patches = tokens.i((.., 1 + self.cfg.n_registers.., ..)).transpose(1, 2); // b d n
            let side = (patches.size()[2] as f64).sqrt().round() as i64;
            patches.reshape([-1, self.cfg.width, side, side])
        })
    }

    /// The tokens that enter block 0: class, registers, patches; positions added to all but the registers.
    ///
    /// - images: `[batch, 3, S, S]`, result `[batch, 1 + registers + patches, D]`
    pub fn embed(&self, images: &Tensor) -> Tensor {
        self.embed_observed(images, &mut |_, _| {})
    }

    /// Its blocks, in order.
    pub fn blocks(&self) -> &[ImageBlock] {
        &self.blocks
    }

    /// The final normalisation, over the last axis.
    pub fn normalise(&self, tokens: &Tensor) -> Tensor {
        self.norm.forward(tokens)
    }

    /// The position table for a grid. A frozen one is resampled once: a GPU takes as long for it as for several blocks.
    fn positions(&self, side: i64) -> Tensor {
        let resample = || resample_positions(&self.pos_embed, side, self.cfg.position_rule);
        match self.pos_embed.requires_grad() {
            true => resample(),
            false => self.resampled.get((side, write_count(&self.pos_embed)), resample),
        }
    }

    fn embed_observed(&self, images: &Tensor, observe: &mut dyn FnMut(Stage, &Tensor)) -> Tensor {
        let (p, b) = (self.cfg.patch_size, images.size()[0]);
        let patches = images.conv2d(&self.patch_weight, Some(&self.patch_bias), p, 0, 1, 1);
        let side = patches.size()[2];
        let patches = patches.flatten(2, 3).transpose(1, 2); // b n d
        observe(Stage::Patches, &patches);
        let tokens = Tensor::cat(&[self.cls_token.expand([b, -1, -1], false), patches], 1);
        let tokens = tokens + self.positions(side);
        let registers = self.register_tokens.expand([b, -1, -1], false).to_kind(tokens.kind());
        let tokens = Tensor::cat(&[tokens.i((.., ..1, ..)), registers, tokens.i((.., 1.., ..))], 1);
        let kind = Autocast::kind(tokens.device()).filter(|_| self.cfg.low_precision_tokens);
        let tokens = kind.map_or_else(|| tokens.shallow_clone(), |kind| tokens.to_kind(kind));
        observe(Stage::Tokens, &tokens);
        tokens
    }
}

/// Whether tokens are in half precision, and are to stay so.
fn is_low(tokens: &Tensor) -> bool {
    matches!(tokens.kind(), Kind::BFloat16 | Kind::Half)
}

fn normalised(norm: &LayerNorm, tokens: &Tensor) -> Tensor {
    if is_low(tokens) { norm.forward_in_dtype(tokens) } else { norm.forward(tokens) }
}

/// The rows of images, for the sentences about them.
pub(crate) fn rows_of(xs: &Tensor, image_of: Option<&Tensor>) -> Tensor {
    image_of.map_or_else(|| xs.shallow_clone(), |image_of| xs.index_select(0, image_of))
}

/// Fills a position table's grid with sinusoidal codes of half height, so that an encoder trained from scratch can
/// tell places apart from the first step on. Pretrained weights overwrite them.
fn start_positions(table: &Tensor, side: i64) {
    let codes = grid_positions(table.size()[2], side, side, (table.kind(), table.device())) * 0.5;
    tch::no_grad(|| table.i((.., 1.., ..)).copy_(&codes));
}

/// One transformer block, with an adapter beside its MLP or without.
#[derive(Debug)]
pub struct ImageBlock {
    norm1: LayerNorm,
    qkv: Linear,
    proj: Linear,
    ls1: Tensor,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    ls2: Tensor,
    adapter: Option<(VisualAdapter, Tensor)>,
    n_heads: i64,
}

impl ImageBlock {
    fn new(path: &Path, cfg: &ImageEncoderConfig, index: i64, word_len: i64, text_width: i64) -> Self {
        let d = cfg.width;
        let linear = |path: Path, n_in: i64, n_out: i64| {
            Linear::new(&path, n_in, n_out, Init::Normal(0.02), Init::Const(0.0))
        };
        let scale = |name: &str, start: f64| (path / name).parameter("gamma", &[d], Init::Const(start));
        let adapter_cfg = VisualAdapterConfig {
            image_width: d,
            n_special: 1 + cfg.n_registers,
            unit: WordUnitConfig {
                bottleneck: cfg.adapter_width,
                text_width,
                width: cfg.fusion_width,
                word_len,
            },
            fusion: cfg.fusion,
        };
        Self {
            norm1: LayerNorm::new(&(path / "norm1"), d, NORM_EPS),
            qkv: linear(path / "attn" / "qkv", d, 3 * d),
            proj: linear(path / "attn" / "proj", d, d),
            ls1: scale("ls1", 1.0),
            norm2: LayerNorm::new(&(path / "norm2"), d, NORM_EPS),
            fc1: linear(path / "mlp" / "fc1", d, cfg.mlp_ratio * d),
            fc2: linear(path / "mlp" / "fc2", cfg.mlp_ratio * d, d),
            ls2: scale("ls2", 1.0),
            adapter: cfg.adapter_blocks.contains(&index).then(|| {
                (VisualAdapter::new(&(path / "adapter"), adapter_cfg), scale("ls_gate", GATE_START))
            }),
            n_heads: cfg.n_heads,
        }
    }

    /// Its adapter, if it has one.
    pub fn adapter(&self) -> Option<&VisualAdapter> {
        self.adapter.as_ref().map(|(adapter, _)| adapter)
    }

    /// - tokens: `[batch, n, D]`; words: `[batch, K, T]`; result like tokens
    pub fn forward(&self, tokens: &Tensor, words: &Tensor, mode: Mode) -> Tensor {
        self.forward_shared(tokens, None, words, mode, &mut |_| {})
    }

    /// - image_of: int64 `[batch]`, which tokens belong to a sentence; without it there are as many as sentences
    fn forward_shared(
        &self,
        tokens: &Tensor,
        image_of: Option<&Tensor>,
        words: &Tensor,
        mode: Mode,
        observe: &mut dyn FnMut(&Tensor),
    ) -> Tensor {
        let low = is_low(tokens);
        let tokens = scaled_sum(tokens, &self.attend(&normalised(&self.norm1, tokens)), &self.ls1, low);
        let normed = normalised(&self.norm2, &tokens);
        let hidden = self.fc2.forward(&self.fc1.forward(&normed).gelu("none"));
        let Some((adapter, gate)) = &self.adapter else {
            return scaled_sum(&tokens, &hidden, &self.ls2, low);
        };
        let _span = trace_span!("adapters").entered();
        let update = adapter.forward_shared(&normed, image_of, words, mode, observe);
        let both = scaled_sum(&rows_of(&hidden, image_of), &update, gate, low);
        scaled_sum(&rows_of(&tokens, image_of), &both, &self.ls2, low)
    }

    fn attend(&self, tokens: &Tensor) -> Tensor {
        let (b, n, d) = (tokens.size()[0], tokens.size()[1], tokens.size()[2]);
        let qkv =
            self.qkv.forward(tokens).view([b, n, 3, self.n_heads, d / self.n_heads]).permute([2, 0, 3, 1, 4]); // 3 b h n d
        // Unbound, not indexed: the gradients are joined by one operation instead of padded with zeros and added.
        let qkv = qkv.unbind(0);
        let mixed = attention(&qkv[0], &qkv[1], &qkv[2], 0.0, false);
        self.proj.forward(&mixed.transpose(1, 2).reshape([b, n, d]))
    }
}
