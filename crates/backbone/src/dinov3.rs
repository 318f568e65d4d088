//! DINOv3's vision transformers (Siméoni et al., 2025, arXiv 2508.10104): rotary positions in place of a table, register tokens,
//! LayerScale, and in some sizes gated MLPs.

use tch::{Kind, Tensor};
use torch_ext::flops::{Cost, Grad, linear as linear_cost};
use torch_ext::layers::{LayerNorm, Linear, attention, scaled_sum};
use torch_ext::{Autocast, Init, ParamPath};
use weight_files::{Layout, Settings, as_named, nothing_beside};

use crate::Stage;
use crate::cost::{Sizes, blocks};
use crate::guest::{AtMlp, Guest, Register};
use crate::image::{Grid, ImageEncoder, ImageEncoderConfig, ImageFamily};
use crate::patches::embed_patches;
use crate::positions::PositionRule;
use crate::projection::{Projection, ProjectionRole, Projections};
use crate::residual::{is_half, normalised, with_guest};
use crate::rotary::{Rotary, turn};
use crate::spec::{EncoderSpec, PixelInput};
use crate::variant::{Activation, Variant};

/// DINOv3's vision transformers, `dinov3` in configs.
#[derive(Debug)]
pub struct Dinov3;

/// The names of the published files are the names here.
static LAYOUTS: &[Layout] = &[Layout {
    name: "Hugging Face names",
    prefixes: &["", "model.", "dinov3_vit."],
    mark: "embeddings.register_tokens",
    target: as_named,
    beside: nothing_beside,
    elsewhere: |name| name.starts_with("classifier."),
    needs: None,
}];

const PROJECTIONS: Projections = Projections {
    blocks: "layer",
    published_blocks: "layer",
    published_front: "model.",
    published_classes: &["DINOv3ViT"],
    // DINOv2's blocks are `encoder.layer`.
    foreign: &["encoder", "text_model", "vision_model"],
    layers: &[
        Projection::new(ProjectionRole::Query, "attention.q_proj", None, &["attention.q_proj"]),
        Projection::new(ProjectionRole::Key, "attention.k_proj", None, &["attention.k_proj"]),
        Projection::new(ProjectionRole::Value, "attention.v_proj", None, &["attention.v_proj"]),
        Projection::new(ProjectionRole::Output, "attention.o_proj", None, &["attention.o_proj"]),
        Projection::new(ProjectionRole::Gate, "mlp.gate_proj", None, &["mlp.gate_proj"]),
        Projection::new(ProjectionRole::Up, "mlp.up_proj", None, &["mlp.up_proj"]),
        Projection::new(ProjectionRole::Down, "mlp.down_proj", None, &["mlp.down_proj"]),
    ],
};

impl ImageFamily for Dinov3 {
    fn name(&self) -> &'static str {
        "dinov3"
    }

    fn described(&self, settings: &Settings<'_>) -> Result<ImageEncoderConfig, String> {
        settings.expect_model(&["dinov3_vit"])?;
        settings.only(&[
            "hidden_act",
            "hidden_size",
            "image_size",
            "intermediate_size",
            "key_bias",
            "layer_norm_eps",
            "mlp_bias",
            "num_attention_heads",
            "num_channels",
            "num_hidden_layers",
            "num_register_tokens",
            "patch_size",
            "proj_bias",
            "query_bias",
            "rope_theta",
            "use_gated_mlp",
            "value_bias",
        ])?;
        let integer =
            |key: &str, published: i64| Ok::<_, String>(settings.integer(key)?.unwrap_or(published));
        if integer("num_channels", 3)? != 3 {
            return Err("config.json: num_channels is not 3".to_owned());
        }
        let published = self.published();
        let flag = |key: &str, published: Option<bool>| Ok::<_, String>(settings.flag(key)?.or(published));
        let patch_size = integer("patch_size", 16)?;
        Ok(ImageEncoderConfig {
            width: integer("hidden_size", 384)?,
            depth: integer("num_hidden_layers", 12)?,
            n_heads: integer("num_attention_heads", 6)?,
            mlp_ratio: 4,
            patch_size,
            n_registers: integer("num_register_tokens", 0)?,
            position_grid: integer("image_size", 224)? / patch_size.max(1),
            position_rule: PositionRule::Dinov2,
            low_precision_tokens: false,
            variant: Variant {
                norm_eps: settings.number("layer_norm_eps")?.or(published.norm_eps),
                query_bias: flag("query_bias", published.query_bias)?,
                key_bias: flag("key_bias", published.key_bias)?,
                value_bias: flag("value_bias", published.value_bias)?,
                output_bias: flag("proj_bias", published.output_bias)?,
                mlp_bias: flag("mlp_bias", published.mlp_bias)?,
                mlp_width: Some(integer("intermediate_size", 1536)?),
                gated_mlp: flag("use_gated_mlp", published.gated_mlp)?,
                activation: Some(Activation::of(settings, "hidden_act", Activation::Gelu)?),
                rope_theta: settings.number("rope_theta")?.or(published.rope_theta),
            },
        })
    }

    fn check(&self, cfg: &ImageEncoderConfig) -> Result<(), String> {
        match cfg.width % (4 * cfg.n_heads) {
            0 => Ok(()),
            _ => Err(format!(
                "image.width ({}) must be a multiple of 4 x image.n_heads ({}): rotary positions turn quarters of a head",
                cfg.width, cfg.n_heads
            )),
        }
    }

    fn published(&self) -> Variant {
        Variant {
            norm_eps: Some(1e-5),
            query_bias: Some(true),
            key_bias: Some(false),
            value_bias: Some(true),
            output_bias: Some(true),
            mlp_bias: Some(true),
            mlp_width: None,
            gated_mlp: Some(false),
            activation: Some(Activation::Gelu),
            rope_theta: Some(100.0),
        }
    }

    fn spec(&self, cfg: &ImageEncoderConfig) -> EncoderSpec<PixelInput> {
        EncoderSpec {
            name: self.name(),
            prefix: "dinov3",
            width: cfg.width,
            depth: cfg.depth,
            n_heads: cfg.n_heads,
            input: PixelInput {
                patch_size: cfg.patch_size,
                n_special: 1 + cfg.n_registers,
                // ImageNet's constants, which the models for web images were trained with.
                mean: [0.485, 0.456, 0.406],
                std: [0.229, 0.224, 0.225],
                // The mean as 8-bit values.
                border: [124, 116, 104],
            },
            // Used only when patches are masked, as in DINOv3's own training.
            optional: &["embeddings.mask_token"],
            wanted: "a DINOv3 image encoder (`embeddings.register_tokens`)",
            layouts: LAYOUTS,
            projections: PROJECTIONS,
        }
    }

    fn build(
        &self,
        path: &ParamPath,
        cfg: &ImageEncoderConfig,
        register: &mut Register<'_>,
    ) -> Box<dyn ImageEncoder> {
        let cfg = ImageEncoderConfig { variant: cfg.variant.or(self.published()), ..cfg.clone() };
        Box::new(Vit::new(path, &cfg, self.spec(&cfg), register))
    }

    fn cost(&self, cfg: &ImageEncoderConfig, side: i64, grad: &dyn Fn(i64) -> Grad, embedding: bool) -> Cost {
        let (d, p, patches) = (cfg.width, cfg.patch_size, side * side);
        let sizes = Sizes {
            n: patches + 1 + cfg.n_registers,
            width: d,
            depth: cfg.depth,
            mlp_width: self.mlp_width(cfg),
            gated_mlp: cfg.variant.gated_mlp == Some(true),
        };
        linear_cost(patches, 3 * p * p, d, Grad { input: false, weight: embedding }) + blocks(sizes, grad)
    }

    fn least_values(&self, cfg: &ImageEncoderConfig) -> f64 {
        let [width, depth, mlp, patch] =
            [cfg.width, cfg.depth, self.mlp_width(cfg), cfg.patch_size].map(|size| size as f64);
        depth * (4.0 * width + 2.0 * mlp) * width + 3.0 * patch * patch * width
    }
}

#[derive(Debug)]
struct Vit {
    cls_token: Tensor,
    register_tokens: Tensor,
    patch_weight: Tensor,
    patch_bias: Tensor,
    blocks: Vec<Block>,
    norm: LayerNorm,
    rotary: Rotary,
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
        let (d, p) = (cfg.width, cfg.patch_size);
        let embeddings = path / "embeddings";
        let cls_token = embeddings.parameter("cls_token", &[1, 1, d], Init::Normal(0.02));
        // In the published files, but used only when patches are masked, as in DINOv3's own training.
        let _ = embeddings.frozen().parameter("mask_token", &[1, 1, d], Init::Const(0.0));
        let register_tokens =
            embeddings.parameter("register_tokens", &[1, cfg.n_registers, d], Init::Normal(0.02));
        let patch = embeddings / "patch_embeddings";
        let patch_init = Init::Uniform(1.0 / ((3 * p * p) as f64).sqrt());
        let mut block = |index: i64| {
            let path = path / "layer" / index;
            let block = Block::new(&path, cfg);
            register(index as usize, &path);
            block
        };
        Self {
            cls_token,
            register_tokens,
            patch_weight: patch.parameter("weight", &[d, 3, p, p], patch_init),
            patch_bias: patch.parameter("bias", &[d], patch_init),
            blocks: (0..cfg.depth).map(&mut block).collect(),
            norm: norm(&(path / "norm"), cfg),
            rotary: Rotary::new(cfg.variant.rope_theta.unwrap_or(100.0), d / cfg.n_heads),
            low_precision_tokens: cfg.low_precision_tokens,
            spec,
        }
    }
}

impl ImageEncoder for Vit {
    fn spec(&self) -> &EncoderSpec<PixelInput> {
        &self.spec
    }

    /// The order is class, registers, patches. Positions are not added; each block turns its queries and keys.
    fn embed(&self, images: &Tensor, observe: &dyn Fn(Stage, &Tensor)) -> Tensor {
        let b = images.size()[0];
        let (patches, _) = embed_patches(images, &self.patch_weight, &self.patch_bias);
        observe(Stage::Patches, &patches);
        let special = [&self.cls_token, &self.register_tokens];
        let [class, registers] =
            special.map(|token| token.expand([b, -1, -1], false).to_kind(patches.kind()));
        let tokens = Tensor::cat(&[class, registers, patches], 1);
        // Autocast leaves the class token and the residual stream in float32.
        let tokens = match Autocast::kind(tokens.device()) {
            Some(kind) if self.low_precision_tokens => tokens.to_kind(kind),
            Some(_) => tokens.to_kind(Kind::Float),
            None => tokens,
        };
        observe(Stage::Tokens, &tokens);
        tokens
    }

    fn block(&self, index: usize, tokens: &Tensor, grid: Grid, guest: &Guest<'_>) -> Tensor {
        let block = &self.blocks[index];
        let low = is_half(tokens);
        let attended = block.attend(&normalised(&block.norm1, tokens), grid, &self.rotary);
        let tokens = scaled_sum(tokens, &attended, &block.scale1, low);
        let normed = normalised(&block.norm2, &tokens);
        let hidden = block.mlp.forward(&normed);
        let addition = guest(AtMlp { block: index, residual: &tokens, normalised: &normed });
        with_guest(&tokens, &hidden, &block.scale2, addition)
    }

    fn normalise(&self, tokens: &Tensor) -> Tensor {
        normalised(&self.norm, tokens)
    }
}

fn norm(path: &ParamPath, cfg: &ImageEncoderConfig) -> LayerNorm {
    LayerNorm::new(path, cfg.width, cfg.variant.norm_eps.unwrap_or(1e-5))
}

fn linear(path: &ParamPath, n_in: i64, n_out: i64, has_bias: Option<bool>) -> Linear {
    let bias = (has_bias != Some(false)).then_some(Init::Const(0.0));
    Linear::with_optional_bias(path, n_in, n_out, Init::Normal(0.02), bias)
}

/// One transformer block with LayerScale.
#[derive(Debug)]
struct Block {
    norm1: LayerNorm,
    /// Query, key and value, which differ in having a bias.
    projections: [Linear; 3],
    output: Linear,
    scale1: Tensor,
    norm2: LayerNorm,
    mlp: Mlp,
    scale2: Tensor,
    n_heads: i64,
}

impl Block {
    fn new(path: &ParamPath, cfg: &ImageEncoderConfig) -> Self {
        let (d, variant, attention) = (cfg.width, &cfg.variant, path / "attention");
        let scale = |name: &str| (path / name).parameter("lambda1", &[d], Init::Const(1.0));
        let projection = |name: &str, bias: Option<bool>| linear(&(&attention / name), d, d, bias);
        Self {
            norm1: norm(&(path / "norm1"), cfg),
            projections: [
                projection("q_proj", variant.query_bias),
                projection("k_proj", variant.key_bias),
                projection("v_proj", variant.value_bias),
            ],
            output: projection("o_proj", variant.output_bias),
            scale1: scale("layer_scale1"),
            norm2: norm(&(path / "norm2"), cfg),
            mlp: Mlp::new(&(path / "mlp"), cfg),
            scale2: scale("layer_scale2"),
            n_heads: cfg.n_heads,
        }
    }

    fn attend(&self, tokens: &Tensor, grid: Grid, rotary: &Rotary) -> Tensor {
        let (b, n, d) = (tokens.size()[0], tokens.size()[1], tokens.size()[2]);
        let [queries, keys, values] = [0, 1, 2].map(|index: usize| {
            self.projections[index].forward(tokens).view([b, n, self.n_heads, -1]).transpose(1, 2) // b h n d
        });
        let angles = rotary.angles(grid, queries.kind(), queries.device());
        let mixed = attention(&turn(&queries, &angles), &turn(&keys, &angles), &values, 0.0, false);
        self.output.forward(&mixed.transpose(1, 2).reshape([b, n, d]))
    }
}

/// The MLP of a block: `down(act(up(x)))`, or `down(act(gate(x)) * up(x))`.
#[derive(Debug)]
struct Mlp {
    gate: Option<Linear>,
    up: Linear,
    down: Linear,
    activation: Activation,
}

impl Mlp {
    fn new(path: &ParamPath, cfg: &ImageEncoderConfig) -> Self {
        let (d, hidden, bias) = (cfg.width, Dinov3.mlp_width(cfg), cfg.variant.mlp_bias);
        let is_gated = cfg.variant.gated_mlp == Some(true);
        Self {
            gate: is_gated.then(|| linear(&(path / "gate_proj"), d, hidden, bias)),
            up: linear(&(path / "up_proj"), d, hidden, bias),
            down: linear(&(path / "down_proj"), hidden, d, bias),
            activation: cfg.variant.activation.unwrap_or(Activation::Gelu),
        }
    }

    fn forward(&self, xs: &Tensor) -> Tensor {
        let up = self.up.forward(xs);
        let hidden = match &self.gate {
            Some(gate) => self.activation.forward(&gate.forward(xs)) * up,
            None => self.activation.forward(&up),
        };
        self.down.forward(&hidden)
    }
}
