use backbone::guest::Guest;
use backbone::{EncoderSpec, Grid, ImageEncoder, PixelInput, Stage};
use tch::{IndexOp, Tensor};
use torch_ext::{Group, Init, OptimizerGroup, ParamPath, Trains};

/// Parameter group of visual prompts.
pub const VISUAL_PROMPTS: Group = Group {
    name: "visual_prompts",
    part_of: None,
    optimizer: OptimizerGroup::Encoders,
    trains: Trains::Always,
};

/// An image encoder with trained tokens between its special tokens and the patches (visual prompt tuning, Jia et al., 2022, arXiv
/// 2203.12119). They count as special tokens: feature maps do not hold them.
#[derive(Debug)]
pub struct Prompted {
    inner: Box<dyn ImageEncoder>,
    /// `[layers, n, D]`: one layer for the embedding, or one for each block.
    tokens: Tensor,
    spec: EncoderSpec<PixelInput>,
}

impl Prompted {
    /// Registers `prompt.tokens`, uniform within `sqrt(6 / (3 p^2 + D))`.
    ///
    /// - path: the encoder's; n_tokens: tokens of a layer; deep: whether every block has its own, which replace those of the block
    ///   before
    pub fn new(path: &ParamPath, inner: Box<dyn ImageEncoder>, n_tokens: i64, deep: bool) -> Self {
        let spec = *inner.spec();
        let (width, patch) = (spec.width, spec.input.patch_size);
        let spread = (6.0 / (3 * patch * patch + width) as f64).sqrt();
        let layers = if deep { spec.depth } else { 1 };
        let path = path.in_group(VISUAL_PROMPTS) / "prompt";
        let tokens = path.parameter("tokens", &[layers, n_tokens, width], Init::Uniform(spread));
        let input = PixelInput { n_special: spec.input.n_special + n_tokens, ..spec.input };
        Self { inner, tokens, spec: EncoderSpec { input, ..spec } }
    }

    /// Tokens with a layer's prompts behind the encoder's own special tokens.
    ///
    /// - patches_at: where the patches begin in `tokens`
    fn with_prompts(&self, tokens: &Tensor, layer: i64, patches_at: i64) -> Tensor {
        let n_special = self.inner.spec().input.n_special;
        let prompts = self.tokens.get(layer).unsqueeze(0).expand([tokens.size()[0], -1, -1], false);
        let prompts = prompts.to_kind(tokens.kind());
        Tensor::cat(&[tokens.i((.., ..n_special, ..)), prompts, tokens.i((.., patches_at.., ..))], 1)
    }
}

impl ImageEncoder for Prompted {
    fn spec(&self) -> &EncoderSpec<PixelInput> {
        &self.spec
    }

    fn embed(&self, images: &Tensor, observe: &dyn Fn(Stage, &Tensor)) -> Tensor {
        let tokens = self.inner.embed(images, observe);
        self.with_prompts(&tokens, 0, self.inner.spec().input.n_special)
    }

    fn block(&self, index: usize, tokens: &Tensor, grid: Grid, guest: &Guest<'_>) -> Tensor {
        // The first block's are there since the embedding.
        if index == 0 || self.tokens.size()[0] == 1 {
            return self.inner.block(index, tokens, grid, guest);
        }
        let tokens = self.with_prompts(tokens, index as i64, self.spec.input.n_special);
        self.inner.block(index, &tokens, grid, guest)
    }

    fn normalise(&self, tokens: &Tensor) -> Tensor {
        self.inner.normalise(tokens)
    }
}
