//! DINOv2 with registers (specification, section 4).

use tch::{IndexOp, Kind, Tensor};
use torch_ext::flops::{Cost, Grad, attention as attention_cost, linear as linear_cost};
use torch_ext::layers::{LayerNorm, Linear, attention, grid_positions, scaled_sum};
use torch_ext::{Autocast, Init, ParamPath, Remembered, write_count};

use crate::Stage;
use crate::dinov2_names::LAYOUTS;
use crate::guest::{Addition, AtMlp, Guest, Register};
use crate::image::{ImageEncoder, ImageEncoderConfig, ImageFamily, rows_of};
use crate::positions::{PositionRule, resample_positions};
use crate::spec::{EncoderSpec, PixelInput};

const NORM_EPS: f64 = 1e-6;

/// DINOv2 with registers, `dinov2-reg` in configs.
#[derive(Debug)]
pub struct Dinov2Registers;

impl ImageFamily for Dinov2Registers {
    fn name(&self) -> &'static str {
        "dinov2-reg"
    }

    fn spec(&self, cfg: &ImageEncoderConfig) -> EncoderSpec<PixelInput> {
        EncoderSpec {
            name: self.name(),
            prefix: "dinov2",
            width: cfg.width,
            depth: cfg.depth,
            n_heads: cfg.n_heads,
            input: PixelInput {
                patch_size: cfg.patch_size,
                n_special: 1 + cfg.n_registers,
                // TALENT normalises DINOv2's images with CLIP's constants (specification, section 10).
                mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
                std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
                // The mean as 8-bit values.
                border: [123, 117, 104],
            },
            // Nothing computes with it, and timm leaves it out.
            optional: &["mask_token"],
            wanted: "a DINOv2 image encoder (`cls_token` or `embeddings.cls_token`)",
            layouts: LAYOUTS,
        }
    }

    fn build(
        &self,
        path: &ParamPath,
        cfg: &ImageEncoderConfig,
        register: &mut Register<'_>,
    ) -> Box<dyn ImageEncoder> {
        Box::new(Dinov2::new(path, cfg, self.spec(cfg), register))
    }

    fn cost(&self, cfg: &ImageEncoderConfig, side: i64, grad: &dyn Fn(i64) -> Grad, embedding: bool) -> Cost {
        let (d, p, patches) = (cfg.width, cfg.patch_size, side * side);
        let n = patches + 1 + cfg.n_registers;
        let block = |index: i64| {
            let grad = grad(index);
            linear_cost(n, d, 3 * d, grad)
                + attention_cost(n, n, d, grad.input)
                + linear_cost(n, d, d, grad)
                + linear_cost(n, d, cfg.mlp_ratio * d, grad)
                + linear_cost(n, cfg.mlp_ratio * d, d, grad)
        };
        linear_cost(patches, 3 * p * p, d, Grad { input: false, weight: embedding })
            + (0..cfg.depth).map(block).sum()
    }

    fn least_values(&self, cfg: &ImageEncoderConfig) -> f64 {
        let [width, depth, ratio, patch, grid, registers] =
            [cfg.width, cfg.depth, cfg.mlp_ratio, cfg.patch_size, cfg.position_grid, cfg.n_registers]
                .map(|size| size as f64);
        depth * (4.0 + 2.0 * ratio) * width * width
            + 3.0 * patch * patch * width
            + (grid * grid + registers) * width
    }
}

#[derive(Debug)]
struct Dinov2 {
    cls_token: Tensor,
    pos_embed: Tensor,
    register_tokens: Tensor,
    patch_weight: Tensor,
    patch_bias: Tensor,
    blocks: Vec<Block>,
    norm: LayerNorm,
    /// Cache of the resampled position table, by grid side and by the table's number of in-place writes.
    resampled: Remembered<(i64, u64)>,
    patch_size: i64,
    position_rule: PositionRule,
    low_precision_tokens: bool,
    spec: EncoderSpec<PixelInput>,
}

impl Dinov2 {
    fn new(
        path: &ParamPath,
        cfg: &ImageEncoderConfig,
        spec: EncoderSpec<PixelInput>,
        register: &mut Register<'_>,
    ) -> Self {
        let d = cfg.width;
        let cls_token = path.parameter("cls_token", &[1, 1, d], Init::Normal(1e-6));
        let pos_embed =
            path.parameter("pos_embed", &[1, 1 + cfg.position_grid * cfg.position_grid, d], Init::Const(0.0));
        init_positions(&pos_embed, cfg.position_grid);
        let register_tokens = path.parameter("register_tokens", &[1, cfg.n_registers, d], Init::Normal(1e-6));
        // In the published files, but used only when patches are masked, as in DINOv2's own training.
        let _ = path.frozen().parameter("mask_token", &[1, d], Init::Const(0.0));
        let patch = path / "patch_embed" / "proj";
        let fan_in = (3 * cfg.patch_size * cfg.patch_size) as f64;
        let patch_init = Init::Uniform(1.0 / fan_in.sqrt());
        let mut block = |index: i64| {
            let path = path / "blocks" / index;
            let block = Block::new(&path, cfg);
            register(index as usize, &path);
            block
        };
        Self {
            cls_token,
            pos_embed,
            register_tokens,
            patch_weight: patch.parameter("weight", &[d, 3, cfg.patch_size, cfg.patch_size], patch_init),
            patch_bias: patch.parameter("bias", &[d], patch_init),
            blocks: (0..cfg.depth).map(&mut block).collect(),
            norm: LayerNorm::new(&(path / "norm"), d, NORM_EPS),
            resampled: Remembered::default(),
            patch_size: cfg.patch_size,
            position_rule: cfg.position_rule,
            low_precision_tokens: cfg.low_precision_tokens,
            spec,
        }
    }

    /// The position table resampled to a grid. The result is cached if the table is frozen, because resampling takes a GPU as
    /// long as several blocks.
    fn positions(&self, side: i64) -> Tensor {
        let resample = || resample_positions(&self.pos_embed, side, self.position_rule);
        match self.pos_embed.requires_grad() {
            true => resample(),
            false => self.resampled.get((side, write_count(&self.pos_embed)), resample),
        }
    }
}

impl ImageEncoder for Dinov2 {
    fn spec(&self) -> &EncoderSpec<PixelInput> {
        &self.spec
    }

    /// The order is class, registers, patches. Positions are added to all but the registers.
    fn embed(&self, images: &Tensor, observe: &dyn Fn(Stage, &Tensor)) -> Tensor {
        let b = images.size()[0];
        let patches = images.conv2d(&self.patch_weight, Some(&self.patch_bias), self.patch_size, 0, 1, 1);
        let side = patches.size()[2];
        let patches = patches.flatten(2, 3).transpose(1, 2); // b n d
        observe(Stage::Patches, &patches);
        let tokens = Tensor::cat(&[self.cls_token.expand([b, -1, -1], false), patches], 1);
        let tokens = tokens + self.positions(side);
        let registers = self.register_tokens.expand([b, -1, -1], false).to_kind(tokens.kind());
        let tokens = Tensor::cat(&[tokens.i((.., ..1, ..)), registers, tokens.i((.., 1.., ..))], 1);
        let kind = Autocast::kind(tokens.device()).filter(|_| self.low_precision_tokens);
        let tokens = kind.map_or_else(|| tokens.shallow_clone(), |kind| tokens.to_kind(kind));
        observe(Stage::Tokens, &tokens);
        tokens
    }

    fn block(&self, index: usize, tokens: &Tensor, guest: &Guest<'_>) -> Tensor {
        self.blocks[index]
            .forward(tokens, |residual, normalised| guest(AtMlp { block: index, residual, normalised }))
    }

    fn normalise(&self, tokens: &Tensor) -> Tensor {
        normalised(&self.norm, tokens)
    }
}

/// Whether the residual stream is in half precision (bf16 or fp16), in which case it stays in it.
fn is_half(tokens: &Tensor) -> bool {
    matches!(tokens.kind(), Kind::BFloat16 | Kind::Half)
}

fn normalised(norm: &LayerNorm, tokens: &Tensor) -> Tensor {
    if is_half(tokens) { norm.forward_in_dtype(tokens) } else { norm.forward(tokens) }
}

/// Initialises a position table's grid with sinusoidal codes times 0.5, so that an encoder trained from scratch can distinguish
/// positions from the first step on. Pretrained weights overwrite them.
fn init_positions(table: &Tensor, side: i64) {
    let codes = grid_positions(table.size()[2], side, side, (table.kind(), table.device())) * 0.5;
    tch::no_grad(|| table.i((.., 1.., ..)).copy_(&codes));
}

/// One transformer block with LayerScale.
#[derive(Debug)]
struct Block {
    norm1: LayerNorm,
    qkv: Linear,
    proj: Linear,
    ls1: Tensor,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    ls2: Tensor,
    n_heads: i64,
}

impl Block {
    fn new(path: &ParamPath, cfg: &ImageEncoderConfig) -> Self {
        let d = cfg.width;
        let linear = |path: ParamPath, n_in: i64, n_out: i64| {
            Linear::new(&path, n_in, n_out, Init::Normal(0.02), Init::Const(0.0))
        };
        let scale = |name: &str| (path / name).parameter("gamma", &[d], Init::Const(1.0));
        Self {
            norm1: LayerNorm::new(&(path / "norm1"), d, NORM_EPS),
            qkv: linear(path / "attn" / "qkv", d, 3 * d),
            proj: linear(path / "attn" / "proj", d, d),
            ls1: scale("ls1"),
            norm2: LayerNorm::new(&(path / "norm2"), d, NORM_EPS),
            fc1: linear(path / "mlp" / "fc1", d, cfg.mlp_ratio * d),
            fc2: linear(path / "mlp" / "fc2", cfg.mlp_ratio * d, d),
            ls2: scale("ls2"),
            n_heads: cfg.n_heads,
        }
    }

    fn forward(&self, tokens: &Tensor, guest: impl Fn(&Tensor, &Tensor) -> Option<Addition>) -> Tensor {
        let low = is_half(tokens);
        let tokens = scaled_sum(tokens, &self.attend(&normalised(&self.norm1, tokens)), &self.ls1, low);
        let normed = normalised(&self.norm2, &tokens);
        let hidden = self.fc2.forward(&self.fc1.forward(&normed).gelu("none"));
        let Some(Addition { update, gate, rows }) = guest(&tokens, &normed) else {
            return scaled_sum(&tokens, &hidden, &self.ls2, low);
        };
        let hidden = rows_of(&hidden, rows.as_ref());
        let both = match gate {
            Some(gate) => scaled_sum(&hidden, &update, &gate, low),
            None => hidden + update,
        };
        scaled_sum(&rows_of(&tokens, rows.as_ref()), &both, &self.ls2, low)
    }

    fn attend(&self, tokens: &Tensor) -> Tensor {
        let (b, n, d) = (tokens.size()[0], tokens.size()[1], tokens.size()[2]);
        let qkv =
            self.qkv.forward(tokens).view([b, n, 3, self.n_heads, d / self.n_heads]).permute([2, 0, 3, 1, 4]); // 3 b h n d
        // `unbind` instead of indexing: its backward pass stacks the three gradients in one operation. Indexing would pad each
        // with zeros and add them.
        let qkv = qkv.unbind(0);
        let mixed = attention(&qkv[0], &qkv[1], &qkv[2], 0.0, false);
        self.proj.forward(&mixed.transpose(1, 2).reshape([b, n, d]))
    }
}
