//! DINOv2 with registers (specification, section 4) and without.

use tch::{IndexOp, Tensor};
use torch_ext::flops::{Cost, Grad, linear as linear_cost};
use torch_ext::layers::{LayerNorm, Linear, attention, grid_positions, scaled_sum};
use torch_ext::{Autocast, Init, ParamPath, Remembered, write_count};
use weight_files::Settings;

use crate::Stage;
use crate::cost::{Sizes, blocks};
use crate::dinov2_names::{LAYOUTS, PROJECTIONS};
use crate::guest::{Addition, AtMlp, Guest, Register};
use crate::image::{Grid, ImageEncoder, ImageEncoderConfig, ImageFamily};
use crate::patches::embed_patches;
use crate::positions::{PositionRule, resample_to};
use crate::residual::{is_half, normalised, with_guest};
use crate::spec::{EncoderSpec, PixelInput};
use crate::variant::{Activation, Variant};

/// DINOv2 with registers, `dinov2-reg` in configs.
#[derive(Debug)]
pub struct Dinov2Registers;

/// DINOv2 without registers, `dinov2` in configs.
#[derive(Debug)]
pub struct Dinov2;

impl ImageFamily for Dinov2Registers {
    fn name(&self) -> &'static str {
        "dinov2-reg"
    }

    fn described(&self, settings: &Settings<'_>) -> Result<ImageEncoderConfig, String> {
        settings.expect_model(&["dinov2_with_registers"])?;
        let n_registers = settings.integer("num_register_tokens")?.unwrap_or(4);
        // The library's default patch size differs between the two.
        described(settings, n_registers, (16, PositionRule::Dinov2))
    }

    fn check(&self, cfg: &ImageEncoderConfig) -> Result<(), String> {
        one_packed_bias(&cfg.variant)
    }

    fn mlp_width(&self, cfg: &ImageEncoderConfig) -> i64 {
        mlp_width(cfg)
    }

    fn published(&self) -> Variant {
        published()
    }

    fn spec(&self, cfg: &ImageEncoderConfig) -> EncoderSpec<PixelInput> {
        // TALENT normalises this encoder's images with CLIP's constants (specification, section 10).
        let mean = [0.481_454_66, 0.457_827_5, 0.408_210_73];
        let std = [0.268_629_54, 0.261_302_6, 0.275_777_1];
        spec(self.name(), cfg, (mean, std, [123, 117, 104]))
    }

    fn build(
        &self,
        path: &ParamPath,
        cfg: &ImageEncoderConfig,
        register: &mut Register<'_>,
    ) -> Box<dyn ImageEncoder> {
        Box::new(Vit::new(path, cfg, self.spec(cfg), register))
    }

    fn cost(&self, cfg: &ImageEncoderConfig, side: i64, grad: &dyn Fn(i64) -> Grad, embedding: bool) -> Cost {
        cost(cfg, side, grad, embedding)
    }

    fn least_values(&self, cfg: &ImageEncoderConfig) -> f64 {
        least_values(cfg)
    }
}

impl ImageFamily for Dinov2 {
    fn name(&self) -> &'static str {
        "dinov2"
    }

    fn described(&self, settings: &Settings<'_>) -> Result<ImageEncoderConfig, String> {
        settings.expect_model(&["dinov2"])?;
        described(settings, 0, (14, PositionRule::Plain))
    }

    fn check(&self, cfg: &ImageEncoderConfig) -> Result<(), String> {
        one_packed_bias(&cfg.variant)?;
        match cfg.n_registers {
            0 => Ok(()),
            n => Err(format!(
                "image.n_registers is {n}, but `dinov2` has none: it must be 0, or the encoder `dinov2-reg`"
            )),
        }
    }

    fn mlp_width(&self, cfg: &ImageEncoderConfig) -> i64 {
        mlp_width(cfg)
    }

    fn published(&self) -> Variant {
        published()
    }

    fn spec(&self, cfg: &ImageEncoderConfig) -> EncoderSpec<PixelInput> {
        // ImageNet's constants, which DINOv2 was trained with.
        spec(self.name(), cfg, ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], [124, 116, 104]))
    }

    fn build(
        &self,
        path: &ParamPath,
        cfg: &ImageEncoderConfig,
        register: &mut Register<'_>,
    ) -> Box<dyn ImageEncoder> {
        Box::new(Vit::new(path, cfg, self.spec(cfg), register))
    }

    fn cost(&self, cfg: &ImageEncoderConfig, side: i64, grad: &dyn Fn(i64) -> Grad, embedding: bool) -> Cost {
        cost(cfg, side, grad, embedding)
    }

    fn least_values(&self, cfg: &ImageEncoderConfig) -> f64 {
        least_values(cfg)
    }
}

/// Query, key and value are one layer, which has one bias.
fn one_packed_bias(variant: &Variant) -> Result<(), String> {
    let biases = variant.or(published());
    match biases.query_bias == biases.key_bias && biases.key_bias == biases.value_bias {
        true => Ok(()),
        false => Err("image.variant: query_bias, key_bias and value_bias must be equal in DINOv2".to_owned()),
    }
}

fn published() -> Variant {
    Variant {
        norm_eps: Some(1e-6),
        query_bias: Some(true),
        key_bias: Some(true),
        value_bias: Some(true),
        gated_mlp: Some(false),
        activation: Some(Activation::Gelu),
        ..Variant::default()
    }
}

fn described(
    settings: &Settings<'_>,
    n_registers: i64,
    (patch_size, position_rule): (i64, PositionRule),
) -> Result<ImageEncoderConfig, String> {
    settings.only(&[
        "hidden_act",
        "hidden_size",
        "image_size",
        "layer_norm_eps",
        "mlp_ratio",
        "num_attention_heads",
        "num_channels",
        "num_hidden_layers",
        "num_register_tokens",
        "patch_size",
        "qkv_bias",
        "use_swiglu_ffn",
    ])?;
    let integer = |key: &str, published: i64| Ok::<_, String>(settings.integer(key)?.unwrap_or(published));
    if integer("num_channels", 3)? != 3 {
        return Err("config.json: num_channels is not 3".to_owned());
    }
    let (width, patch_size) = (integer("hidden_size", 768)?, integer("patch_size", patch_size)?);
    let ratio = settings.number("mlp_ratio")?.unwrap_or(4.0);
    let gated = settings.flag("use_swiglu_ffn")?.unwrap_or(false);
    let qkv_bias = settings.flag("qkv_bias")?.or(Some(true));
    let hidden = (width as f64 * ratio) as i64;
    Ok(ImageEncoderConfig {
        width,
        depth: integer("num_hidden_layers", 12)?,
        n_heads: integer("num_attention_heads", 12)?,
        mlp_ratio: ratio as i64,
        patch_size,
        n_registers,
        position_grid: integer("image_size", 224)? / patch_size.max(1),
        position_rule,
        low_precision_tokens: false,
        variant: Variant {
            norm_eps: settings.number("layer_norm_eps")?.or(Some(1e-6)),
            query_bias: qkv_bias,
            key_bias: qkv_bias,
            value_bias: qkv_bias,
            mlp_width: Some(if gated { swiglu_width(hidden) } else { hidden }),
            gated_mlp: Some(gated),
            activation: Some(Activation::of(settings, "hidden_act", Activation::Gelu)?),
            ..Variant::default()
        },
    })
}

/// Hidden width of a gated MLP with about as many weights as a plain one: two thirds of it, rounded up to a multiple of 8.
fn swiglu_width(hidden: i64) -> i64 {
    (hidden.saturating_mul(2) / 3 + 7) / 8 * 8
}

fn spec(
    name: &'static str,
    cfg: &ImageEncoderConfig,
    (mean, std, border): ([f32; 3], [f32; 3], [u8; 3]),
) -> EncoderSpec<PixelInput> {
    EncoderSpec {
        name,
        prefix: "dinov2",
        width: cfg.width,
        depth: cfg.depth,
        n_heads: cfg.n_heads,
        input: PixelInput {
            patch_size: cfg.patch_size,
            n_special: 1 + cfg.n_registers,
            mean,
            std,
            // The mean as 8-bit values.
            border,
        },
        // Nothing computes with it, and timm leaves it out.
        optional: &["mask_token"],
        wanted: "a DINOv2 image encoder (`cls_token` or `embeddings.cls_token`)",
        layouts: LAYOUTS,
        projections: PROJECTIONS,
    }
}

/// Hidden width of the MLPs, also for configurations that only say that they are gated.
fn mlp_width(cfg: &ImageEncoderConfig) -> i64 {
    let plain = cfg.mlp_ratio.saturating_mul(cfg.width);
    let published = if cfg.variant.gated_mlp == Some(true) { swiglu_width(plain) } else { plain };
    cfg.variant.mlp_width.unwrap_or(published)
}

fn cost(cfg: &ImageEncoderConfig, side: i64, grad: &dyn Fn(i64) -> Grad, embedding: bool) -> Cost {
    let (d, p, patches) = (cfg.width, cfg.patch_size, side * side);
    let sizes = Sizes {
        n: patches + 1 + cfg.n_registers,
        width: d,
        depth: cfg.depth,
        mlp_width: mlp_width(cfg),
        gated_mlp: cfg.variant.gated_mlp == Some(true),
    };
    linear_cost(patches, 3 * p * p, d, Grad { input: false, weight: embedding }) + blocks(sizes, grad)
}

fn least_values(cfg: &ImageEncoderConfig) -> f64 {
    let [width, depth, mlp, patch, grid, registers] =
        [cfg.width, cfg.depth, mlp_width(cfg), cfg.patch_size, cfg.position_grid, cfg.n_registers]
            .map(|size| size as f64);
    depth * (4.0 * width + 2.0 * mlp) * width
        + 3.0 * patch * patch * width
        + (grid * grid + registers) * width
}

#[derive(Debug)]
struct Vit {
    cls_token: Tensor,
    pos_embed: Tensor,
    /// None without registers.
    register_tokens: Option<Tensor>,
    patch_weight: Tensor,
    patch_bias: Tensor,
    blocks: Vec<Block>,
    norm: LayerNorm,
    /// Cache of the resampled position table, by grid and by the table's number of in-place writes.
    resampled: Remembered<([i64; 2], u64)>,
    position_rule: PositionRule,
    low_precision_tokens: bool,
    spec: EncoderSpec<PixelInput>,
}

impl Vit {
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
        let register_tokens = (cfg.n_registers > 0)
            .then(|| path.parameter("register_tokens", &[1, cfg.n_registers, d], Init::Normal(1e-6)));
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
            norm: LayerNorm::new(&(path / "norm"), d, norm_eps(cfg)),
            resampled: Remembered::default(),
            position_rule: cfg.position_rule,
            low_precision_tokens: cfg.low_precision_tokens,
            spec,
        }
    }

    /// The position table resampled to a grid. The result is cached if the table is frozen, because resampling takes a GPU as
    /// long as several blocks.
    fn positions(&self, grid: Grid) -> Tensor {
        let resample = || resample_to(&self.pos_embed, grid, self.position_rule);
        match self.pos_embed.requires_grad() {
            true => resample(),
            false => self.resampled.get(([grid.rows, grid.columns], write_count(&self.pos_embed)), resample),
        }
    }
}

impl ImageEncoder for Vit {
    fn spec(&self) -> &EncoderSpec<PixelInput> {
        &self.spec
    }

    /// The order is class, registers, patches. Positions are added to all but the registers.
    fn embed(&self, images: &Tensor, observe: &dyn Fn(Stage, &Tensor)) -> Tensor {
        let b = images.size()[0];
        let (patches, grid) = embed_patches(images, &self.patch_weight, &self.patch_bias);
        observe(Stage::Patches, &patches);
        let tokens = Tensor::cat(&[self.cls_token.expand([b, -1, -1], false), patches], 1);
        let tokens = tokens + self.positions(grid);
        let tokens = match &self.register_tokens {
            Some(registers) => {
                let registers = registers.expand([b, -1, -1], false).to_kind(tokens.kind());
                Tensor::cat(&[tokens.i((.., ..1, ..)), registers, tokens.i((.., 1.., ..))], 1)
            }
            None => tokens,
        };
        let kind = Autocast::kind(tokens.device()).filter(|_| self.low_precision_tokens);
        let tokens = kind.map_or_else(|| tokens.shallow_clone(), |kind| tokens.to_kind(kind));
        observe(Stage::Tokens, &tokens);
        tokens
    }

    fn block(&self, index: usize, tokens: &Tensor, _: Grid, guest: &Guest<'_>) -> Tensor {
        self.blocks[index]
            .forward(tokens, |residual, normalised| guest(AtMlp { block: index, residual, normalised }))
    }

    fn normalise(&self, tokens: &Tensor) -> Tensor {
        normalised(&self.norm, tokens)
    }
}

fn norm_eps(cfg: &ImageEncoderConfig) -> f64 {
    cfg.variant.norm_eps.unwrap_or(1e-6)
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
    mlp: Mlp,
    ls2: Tensor,
    n_heads: i64,
}

impl Block {
    fn new(path: &ParamPath, cfg: &ImageEncoderConfig) -> Self {
        let d = cfg.width;
        let scale = |name: &str| (path / name).parameter("gamma", &[d], Init::Const(1.0));
        let bias = (cfg.variant.query_bias != Some(false)).then_some(Init::Const(0.0));
        Self {
            norm1: LayerNorm::new(&(path / "norm1"), d, norm_eps(cfg)),
            qkv: Linear::with_optional_bias(&(path / "attn" / "qkv"), d, 3 * d, Init::Normal(0.02), bias),
            proj: linear(&(path / "attn" / "proj"), d, d),
            ls1: scale("ls1"),
            norm2: LayerNorm::new(&(path / "norm2"), d, norm_eps(cfg)),
            mlp: Mlp::new(&(path / "mlp"), cfg),
            ls2: scale("ls2"),
            n_heads: cfg.n_heads,
        }
    }

    fn forward(&self, tokens: &Tensor, guest: impl Fn(&Tensor, &Tensor) -> Option<Addition>) -> Tensor {
        let low = is_half(tokens);
        let tokens = scaled_sum(tokens, &self.attend(&normalised(&self.norm1, tokens)), &self.ls1, low);
        let normed = normalised(&self.norm2, &tokens);
        let hidden = self.mlp.forward(&normed);
        with_guest(&tokens, &hidden, &self.ls2, guest(&tokens, &normed))
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

fn linear(path: &ParamPath, n_in: i64, n_out: i64) -> Linear {
    Linear::new(path, n_in, n_out, Init::Normal(0.02), Init::Const(0.0))
}

/// The MLP of a block.
#[derive(Debug)]
enum Mlp {
    Plain {
        fc1: Linear,
        fc2: Linear,
        activation: Activation,
    },
    /// SwiGLU, as in the giant model. Gate and value come from one product.
    Gated {
        w12: Linear,
        w3: Linear,
    },
}

impl Mlp {
    fn new(path: &ParamPath, cfg: &ImageEncoderConfig) -> Self {
        let (d, hidden) = (cfg.width, mlp_width(cfg));
        match cfg.variant.gated_mlp {
            Some(true) => Self::Gated {
                w12: linear(&(path / "w12"), d, 2 * hidden),
                w3: linear(&(path / "w3"), hidden, d),
            },
            _ => Self::Plain {
                fc1: linear(&(path / "fc1"), d, hidden),
                fc2: linear(&(path / "fc2"), hidden, d),
                activation: cfg.variant.activation.unwrap_or(Activation::Gelu),
            },
        }
    }

    fn forward(&self, xs: &Tensor) -> Tensor {
        match self {
            Self::Plain { fc1, fc2, activation } => fc2.forward(&activation.forward(&fc1.forward(xs))),
            Self::Gated { w12, w3 } => {
                let both = w12.forward(xs).chunk(2, -1);
                w3.forward(&(both[0].silu() * &both[1]))
            }
        }
    }
}
