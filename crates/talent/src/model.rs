use backbone::{Gate, ImageEncoder, Stage, TextEncoder, TextOutput};
use rca::{Neck, NeckConfig, NeckOutput};
use tch::{Device, Kind, Tensor};
use torch_ext::layers::Mode;
use torch_ext::{Role, Store};
use tracing::trace_span;

use crate::config::{ConfigError, ModelConfig};
use crate::decoder::Decoder;
use crate::projector::Projector;

/// The network with its parameters.
#[derive(Debug)]
pub struct Talent {
    store: Store,
    text: TextEncoder,
    image: ImageEncoder,
    neck: Neck,
    decoder: Decoder,
    projector: Projector,
    cfg: ModelConfig,
}

/// Token ids of a training batch, each int64 `[batch, K]`.
#[derive(Debug)]
pub struct Triplet<'a> {
    /// The expressions.
    pub words: &'a Tensor,
    /// Other expressions of the same referents.
    pub positives: &'a Tensor,
    /// Expressions of other objects in the images, zeros where there is none.
    pub negatives: &'a Tensor,
}

/// What the network computes. (H, W) is the patch grid.
#[derive(Debug)]
pub struct TalentOutput {
    /// Mask logits, `[batch, 1, 4H, 4W]`.
    pub logits: Tensor,
    /// Word features, `[batch, K, T]`.
    pub words: Tensor,
    /// Sentence vectors, `[batch, T']`.
    pub state: Tensor,
    /// Sentence vectors of positives and negatives, `[batch, T']` each, when they were given.
    pub contrast: Option<[Tensor; 2]>,
    /// Image features at three levels, `[batch, D, H, W]`.
    pub taps: [Tensor; 3],
    /// The neck's results.
    pub neck: NeckOutput,
    /// The decoder's result, `[batch, C, H, W]`.
    pub decoded: Tensor,
}

/// Foreground probabilities over the input square, enlarged from the logits as the official evaluation does: sigmoid
/// first, then bicubic with aligned corners (specification, section 10). Bicubic weights are partly negative, so
/// values leave 0..1 a little.
///
/// - logits: `[batch, 1, 4H, 4W]`, result: float32 `[batch, side, side]`
pub fn probabilities(logits: &Tensor, side: i64) -> Tensor {
    let small = logits.to_kind(Kind::Float).sigmoid();
    small.upsample_bicubic2d([side, side], true, None, None).squeeze_dim(1)
}

/// Encoded sentences.
pub(crate) struct Sentence<'a> {
    ids: &'a Tensor,
    pub(crate) words: Tensor,
    state: Tensor,
    contrast: Option<[Tensor; 2]>,
}

impl<'a> Sentence<'a> {
    /// - text: of sentences, positives and negatives
    pub(crate) fn of_triplet(ids: &Triplet<'a>, text: &TextOutput) -> Self {
        let b = ids.words.size()[0];
        let states = text.state.split(b, 0);
        let contrast = Some([states[1].shallow_clone(), states[2].shallow_clone()]);
        Self { ids: ids.words, words: text.words.narrow(0, 0, b), state: states[0].shallow_clone(), contrast }
    }
}

/// Which parameters train.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrainedParts {
    /// Adapters and head; both encoders stay as they are (parameter-efficient tuning).
    AdaptersAndHead,
    /// Everything.
    All,
}

/// The parts whose parameters are counted and optimised together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ParameterGroup {
    /// Adapters of the image encoder.
    VisualAdapters,
    /// Adapters of the text encoder.
    TextAdapters,
    /// Gates of the visual adapters.
    Gates,
    /// Neck.
    Neck,
    /// Decoder.
    Decoder,
    /// Projector.
    Projector,
    /// Image encoder without adapters and gates.
    ImageEncoder,
    /// Text encoder without adapters.
    TextEncoder,
}

/// The group of a parameter, by its official name.
pub fn parameter_group(name: &str) -> ParameterGroup {
    let adapter = name.contains(".adapter.");
    match name.split('.').next() {
        Some("dinov2") if name.contains(".ls_gate.") => ParameterGroup::Gates,
        Some("dinov2") if adapter => ParameterGroup::VisualAdapters,
        Some("dinov2") => ParameterGroup::ImageEncoder,
        Some("txt_backbone") if adapter => ParameterGroup::TextAdapters,
        Some("txt_backbone") => ParameterGroup::TextEncoder,
        Some("decoder") => ParameterGroup::Decoder,
        Some("proj") => ParameterGroup::Projector,
        _ => ParameterGroup::Neck,
    }
}

impl Talent {
    /// Builds the network with its start values, drawn from libtorch's CPU generator.
    ///
    /// # Errors
    /// When the sizes do not fit together.
    pub fn new(cfg: &ModelConfig, device: Device, kind: Kind) -> Result<Self, ConfigError> {
        Self::in_store(cfg, Store::new(device, kind))
    }

    /// Builds the network with start values that depend on the seed and the parameters' names alone: variants of the
    /// network start alike in all that they share.
    ///
    /// # Errors
    /// When the sizes do not fit together.
    pub fn seeded(cfg: &ModelConfig, device: Device, kind: Kind, seed: u64) -> Result<Self, ConfigError> {
        Self::in_store(cfg, Store::seeded(device, kind, seed))
    }

    fn in_store(cfg: &ModelConfig, store: Store) -> Result<Self, ConfigError> {
        cfg.validate()?;
        let root = store.root();
        let text = TextEncoder::new(&(&root / "txt_backbone"), &cfg.text);
        let image = ImageEncoder::new(&(&root / "dinov2"), &cfg.image, cfg.word_len, cfg.text.width);
        let neck_cfg = NeckConfig {
            image_width: cfg.image.width,
            text_width: cfg.text.width,
            state_width: cfg.text.state_width,
            width: cfg.head.width,
            fusion: cfg.head.fusion,
        };
        let neck = Neck::new(&(&root / "neck"), neck_cfg);
        let decoder = Decoder::new(&(&root / "decoder"), cfg.head.width, &cfg.decoder);
        let projector = Projector::new(&(&root / "proj"), cfg.head.width, cfg.text.state_width);
        let model = Self { store, text, image, neck, decoder, projector, cfg: cfg.clone() };
        model.train_only(TrainedParts::AdaptersAndHead);
        Ok(model)
    }

    /// Named parameters and buffers, in the official order.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The text encoder.
    pub fn text(&self) -> &TextEncoder {
        &self.text
    }

    /// The image encoder.
    pub fn image(&self) -> &ImageEncoder {
        &self.image
    }

    /// The neck.
    pub fn neck(&self) -> &Neck {
        &self.neck
    }

    /// The decoder.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// The projector.
    pub fn projector(&self) -> &Projector {
        &self.projector
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &ModelConfig {
        &self.cfg
    }

    /// Chooses which parameters train. Frozen gates never do; unused tensors of the published files neither.
    pub fn train_only(&self, parts: TrainedParts) {
        self.store.set_trainable(|name| match parameter_group(name) {
            ParameterGroup::Gates => self.cfg.image.gate == Gate::Learned,
            ParameterGroup::ImageEncoder => parts == TrainedParts::All && !name.ends_with("mask_token"),
            ParameterGroup::TextEncoder => parts == TrainedParts::All && !name.ends_with("logit_scale"),
            _ => true,
        });
    }

    /// Trainable parameters by name, in the official order.
    pub fn trainable(&self) -> Vec<(String, Tensor)> {
        let entries = self.store.entries().into_iter();
        let trainable =
            entries.filter(|(_, entry)| entry.role == Role::Parameter && entry.tensor.requires_grad());
        trainable.map(|(name, entry)| (name, entry.tensor)).collect()
    }

    /// The trainable parameters as the official optimiser groups them: everything inside the encoders, and the
    /// head. Their order is that of a checkpoint's optimiser state (specification, 12.4).
    pub fn optimizer_groups(&self) -> [Vec<(String, Tensor)>; 2] {
        let in_encoders = |name: &str| name.starts_with("txt_backbone.") || name.starts_with("dinov2.");
        let (encoders, head) = self.trainable().into_iter().partition(|(name, _)| in_encoders(name));
        [encoders, head]
    }

    /// Inference.
    ///
    /// - images: `[batch, 3, S, S]`, normalised; words: int64 `[batch, K]`
    pub fn forward(&self, images: &Tensor, words: &Tensor) -> TalentOutput {
        self.forward_observed(images, words, &mut |_, _| {})
    }

    /// Inference for several expressions about the same images. What an image's features do not owe to the words, up to
    /// the first adapter, is computed once for each image.
    ///
    /// - images: `[m, 3, S, S]`, normalised; image_of: int64 `[batch]`, the image an expression is about
    /// - words: int64 `[batch, K]`
    pub fn forward_shared(&self, images: &Tensor, image_of: &Tensor, words: &Tensor) -> TalentOutput {
        let shared = images.size()[0] != words.size()[0];
        if shared {
            self.infer(images, Some(image_of), words, &mut |_, _| {})
        } else {
            self.forward(&images.index_select(0, image_of), words)
        }
    }

    /// As [`Talent::forward`]; `observe` sees what passes the encoders.
    pub fn forward_observed(
        &self,
        images: &Tensor,
        words: &Tensor,
        observe: &mut dyn FnMut(Stage, &Tensor),
    ) -> TalentOutput {
        self.infer(images, None, words, observe)
    }

    fn infer(
        &self,
        images: &Tensor,
        image_of: Option<&Tensor>,
        words: &Tensor,
        observe: &mut dyn FnMut(Stage, &Tensor),
    ) -> TalentOutput {
        let text = trace_span!("text").in_scope(|| self.text.forward_observed(words, Mode::Eval, observe));
        let sentence = Sentence { ids: words, words: text.words, state: text.state, contrast: None };
        self.forward_image(images, image_of, sentence, Mode::Eval, observe)
    }

    /// A training pass: batch statistics and dropout. Sentences, positives and negatives go through the text
    /// encoder as one batch, so that its batch statistics cover all three.
    ///
    /// - images: `[batch, 3, S, S]`, normalised
    pub fn forward_train(&self, images: &Tensor, ids: &Triplet<'_>) -> TalentOutput {
        self.forward_train_observed(images, ids, &mut |_, _| {})
    }

    /// As [`Talent::forward_train`]; `observe` sees what passes the encoders.
    pub fn forward_train_observed(
        &self,
        images: &Tensor,
        ids: &Triplet<'_>,
        observe: &mut dyn FnMut(Stage, &Tensor),
    ) -> TalentOutput {
        let text = self.encode_triplet(ids, observe);
        self.forward_image(images, None, Sentence::of_triplet(ids, &text), Mode::Train, observe)
    }

    /// Sentences, positives and negatives as one batch.
    pub(crate) fn encode_triplet(
        &self,
        ids: &Triplet<'_>,
        observe: &mut dyn FnMut(Stage, &Tensor),
    ) -> TextOutput {
        let sentences = Tensor::cat(&[ids.words, ids.positives, ids.negatives], 0);
        trace_span!("text").in_scope(|| self.text.forward_observed(&sentences, Mode::Train, observe))
    }

    fn forward_image(
        &self,
        images: &Tensor,
        image_of: Option<&Tensor>,
        sentence: Sentence<'_>,
        mode: Mode,
        observe: &mut dyn FnMut(Stage, &Tensor),
    ) -> TalentOutput {
        let levels = trace_span!("vision blocks")
            .in_scope(|| self.image.forward_shared(images, image_of, &sentence.words, mode, observe));
        self.forward_head(levels, sentence, mode)
    }

    /// Neck, decoder and projector.
    ///
    /// - taps: image features at three levels
    pub(crate) fn forward_head(&self, taps: [Tensor; 3], sentence: Sentence<'_>, mode: Mode) -> TalentOutput {
        let Sentence { ids, words, state, contrast } = sentence;
        let neck = trace_span!("neck").in_scope(|| self.neck.forward(&taps, &state, &words, mode));
        // Padding has id 0, which no word has.
        let visible = self.cfg.decoder.mask_padding.then(|| ids.ne(0));
        let decoded = trace_span!("decoder")
            .in_scope(|| self.decoder.forward(&neck.features, &words, visible.as_ref(), mode));
        let logits = trace_span!("projector").in_scope(|| self.projector.forward(&decoded, &state, mode));
        TalentOutput { logits, words, state, contrast, taps, neck, decoded }
    }
}
