use adapters::{Prompted, TextAdapters, VisualAdapters};
use backbone::{
    EncoderSpec, Features, IMAGE_ENCODER, ImageEncoder, ProjectionRole, TEXT_ENCODER, TextEncoder,
    TextOutput, rows_of,
};
use rca::{Neck, NeckOutput};
use tch::{Device, Kind, Tensor};
use torch_ext::layers::Mode;
use torch_ext::{Entry, Group, OptimizerGroup, ParamPath, Role, Store, Trains};
use tracing::trace_span;

use crate::config::{ConfigError, ModelConfig};
use crate::decoder::Decoder;
use crate::pass::{Pass, Sentences, Stage, Triplet};
use crate::projector::Projector;
use crate::tuning::{Tuning, layer_name};

/// The network with its parameters.
#[derive(Debug)]
pub struct Talent {
    store: Store,
    text: Box<dyn TextEncoder>,
    text_adapters: TextAdapters,
    image: Box<dyn ImageEncoder>,
    visual_adapters: VisualAdapters,
    /// Name prefix of each image block's parameters, for example `dinov2.blocks.3.`.
    image_blocks: Vec<String>,
    neck: Neck,
    decoder: Decoder,
    projector: Projector,
    cfg: ModelConfig,
}

/// Outputs of the network. (H, W) is the patch grid.
#[derive(Debug)]
pub struct TalentOutput {
    /// Mask logits, `[batch, 1, 4H, 4W]`.
    pub logits: Tensor,
    /// Word features, `[batch, K, T]`.
    pub words: Tensor,
    /// Sentence vectors, `[batch, T']`.
    pub state: Tensor,
    /// Sentence vectors of positives and negatives, `[batch, T']` each; none for [`Sentences::Plain`].
    pub contrast: Option<[Tensor; 2]>,
    /// Image features at three levels, `[batch, D, H, W]`.
    pub taps: [Tensor; 3],
    /// Outputs of the neck.
    pub neck: NeckOutput,
    /// Output of the decoder, `[batch, C, H, W]`.
    pub decoded: Tensor,
}

/// Foreground probabilities over the input square, upsampled from the logits as in the official evaluation: sigmoid first, then
/// bicubic with aligned corners (specification, section 10). Some bicubic weights are negative, so values can lie slightly
/// outside of 0..1.
///
/// - logits: `[batch, 1, 4H, 4W]`, result: float32 `[batch, side, side]`
pub fn probabilities(logits: &Tensor, side: i64) -> Tensor {
    let small = logits.to_kind(Kind::Float).sigmoid();
    small.upsample_bicubic2d([side, side], true, None, None).squeeze_dim(1)
}

/// Encoded sentences: features of the expressions, and sentence vectors of positives and negatives.
pub(crate) struct Encoded<'a> {
    ids: &'a Tensor,
    pub(crate) words: Tensor,
    state: Tensor,
    contrast: Option<[Tensor; 2]>,
}

impl<'a> Encoded<'a> {
    /// - text: text encoder output for all sentences, as [`Talent::encode`] returns it
    pub(crate) fn new(sentences: Sentences<'a>, text: &TextOutput) -> Self {
        let ids = sentences.words();
        let own = |xs: &Tensor| xs.shallow_clone();
        match sentences {
            Sentences::Plain(_) => {
                Self { ids, words: own(&text.words), state: own(&text.state), contrast: None }
            }
            Sentences::Triplet(_) => {
                let b = ids.size()[0];
                let states = text.state.split(b, 0);
                let contrast = Some([own(&states[1]), own(&states[2])]);
                Self { ids, words: text.words.narrow(0, 0, b), state: own(&states[0]), contrast }
            }
        }
    }
}

/// The images to encode, and which of them each sentence is about if they are shared. With as many images as sentences, each
/// sentence gets its own row instead.
pub(crate) fn sharing<'a>(
    images: &Tensor,
    image_of: Option<&'a Tensor>,
    words: &Tensor,
) -> (Tensor, Option<&'a Tensor>) {
    let own = image_of.filter(|_| images.size()[0] == words.size()[0]);
    (rows_of(images, own), image_of.filter(|_| own.is_none()))
}

/// Which parameters train.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrainedParts {
    /// The head and what `model.tuning` names; the encoders are otherwise frozen (parameter-efficient tuning).
    Tuned,
    /// Everything: both encoders, adapters, head.
    All,
}

const fn head(name: &'static str) -> Group {
    Group { name, part_of: Some("head"), optimizer: OptimizerGroup::Head, trains: Trains::Always }
}

const NECK: Group = head("neck");
const DECODER: Group = head("decoder");
const PROJECTOR: Group = head("projector");

/// Whether a parameter of an encoder is a bias or a normalisation's weight: of all weights, these alone are vectors.
fn is_norm_or_bias(name: &str, entry: &Entry) -> bool {
    name.ends_with("bias") || (name.ends_with(".weight") && entry.tensor.dim() == 1)
}

impl ModelConfig {
    /// The path that an encoder is registered below, with its low-rank updates if it has any.
    fn tunable(&self, path: &ParamPath, spec: &EncoderSpec<()>, targets: &[ProjectionRole]) -> ParamPath {
        match self.tuning {
            Tuning::Lora => path.with_low_rank(self.lora.rule(spec, targets)),
            _ => path.clone(),
        }
    }
}

impl Talent {
    /// Builds the network with initial values drawn from libtorch's CPU generator.
    ///
    /// # Errors
    /// When the sizes do not fit together.
    pub fn new(cfg: &ModelConfig, device: Device, kind: Kind) -> Result<Self, ConfigError> {
        Self::in_store(cfg, Store::new(device, kind))
    }

    /// Builds the network with initial values that depend only on the seed and the parameter names. Variants of the network
    /// therefore have equal initial values wherever they share a parameter.
    ///
    /// # Errors
    /// When the sizes do not fit together.
    pub fn seeded(cfg: &ModelConfig, device: Device, kind: Kind, seed: u64) -> Result<Self, ConfigError> {
        Self::in_store(cfg, Store::seeded(device, kind, seed))
    }

    fn in_store(cfg: &ModelConfig, store: Store) -> Result<Self, ConfigError> {
        cfg.validate()?;
        let root = store.root();
        let (text_spec, image_spec) = (cfg.text.spec(), cfg.image.spec());
        let mut text_adapters = TextAdapters::new(cfg.text_adapters());
        let text_path = root.in_group(TEXT_ENCODER) / text_spec.prefix;
        let text_path = cfg.tunable(&text_path, &text_spec.without_input(), &cfg.lora.text_targets);
        let text = cfg.text.encoder.build(&text_path, &cfg.text.sizes(), &mut |block, path| {
            text_adapters.register(block, path);
        });
        let mut visual_adapters = VisualAdapters::new(cfg.visual_adapters());
        let mut image_blocks = Vec::new();
        let image_path = root.in_group(IMAGE_ENCODER) / image_spec.prefix;
        let image_path = cfg.tunable(&image_path, &image_spec.without_input(), &cfg.lora.image_targets);
        let mut image = cfg.image.encoder.build(&image_path, &cfg.image.sizes(), &mut |block, path| {
            image_blocks.push(format!("{}.", path.name()));
            visual_adapters.register(block, path);
        });
        if cfg.tuning == Tuning::Prompt {
            image = Box::new(Prompted::new(&image_path, image, cfg.prompt.n_tokens, cfg.prompt.deep));
        }
        let neck = Neck::new(&(root.in_group(NECK) / "neck"), cfg.neck());
        let decoder = Decoder::new(&(root.in_group(DECODER) / "decoder"), cfg.head.width, &cfg.decoder);
        let projector =
            Projector::new(&(root.in_group(PROJECTOR) / "proj"), cfg.head.width, cfg.text.state_width);
        let model = Self {
            store,
            text,
            text_adapters,
            image,
            visual_adapters,
            image_blocks,
            neck,
            decoder,
            projector,
            cfg: cfg.clone(),
        };
        model.check_updates()?;
        model.train_only(TrainedParts::Tuned);
        Ok(model)
    }

    /// Checks that each target of LoRA is a layer of this network: a gate is one of gated MLPs alone.
    fn check_updates(&self) -> Result<(), ConfigError> {
        if self.cfg.tuning != Tuning::Lora {
            return Ok(());
        }
        let updates = self.store.low_rank_updates();
        let (image, text) = (self.cfg.image.spec().without_input(), self.cfg.text.spec().without_input());
        let both = [
            ("lora.image_targets", image, &self.cfg.lora.image_targets),
            ("lora.text_targets", text, &self.cfg.lora.text_targets),
        ];
        for (name, spec, targets) in both {
            let is_updated = |role: ProjectionRole| {
                let mut layers = spec.projections.layers.iter().filter(|layer| layer.role == role);
                layers.any(|layer| {
                    let path = layer_name(&spec, 0, layer);
                    updates.iter().any(|update| update.layer == path && update.part.rows == layer.rows)
                })
            };
            if let Some(role) = targets.iter().find(|role| !is_updated(**role)) {
                return Err(ConfigError(format!(
                    "{name} names `{}`, which the blocks of this `{}` lack",
                    role.name(),
                    spec.name
                )));
            }
        }
        Ok(())
    }

    /// Named parameters and buffers, in the official order.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The text encoder.
    pub fn text(&self) -> &dyn TextEncoder {
        &*self.text
    }

    /// The text encoder's adapters.
    pub fn text_adapters(&self) -> &TextAdapters {
        &self.text_adapters
    }

    /// The image encoder.
    pub fn image(&self) -> &dyn ImageEncoder {
        &*self.image
    }

    /// The image encoder's adapters.
    pub fn visual_adapters(&self) -> &VisualAdapters {
        &self.visual_adapters
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

    /// The configuration that the network was built from.
    pub fn config(&self) -> &ModelConfig {
        &self.cfg
    }

    /// Chooses which parameters train, by the [`Trains`] rule of each parameter group and by [`ModelConfig::tuning`].
    pub fn train_only(&self, parts: TrainedParts) {
        let norms = self.cfg.tuning == Tuning::Norms;
        self.store.set_trainable(|name, entry| match entry.group.trains {
            Trains::Always => true,
            Trains::WithEncoders => parts == TrainedParts::All || (norms && is_norm_or_bias(name, entry)),
            Trains::Never => false,
        });
    }

    /// Trainable parameters by name, in the official order.
    pub fn trainable(&self) -> Vec<(String, Tensor)> {
        let entries = self.store.entries().into_iter();
        let trainable =
            entries.filter(|(_, entry)| entry.role == Role::Parameter && entry.tensor.requires_grad());
        trainable.map(|(name, entry)| (name, entry.tensor)).collect()
    }

    /// The trainable parameters in the official optimiser's two groups: everything inside the encoders, and the head. Their
    /// order is that of a checkpoint's optimiser state (specification, section 12.4).
    pub fn optimizer_groups(&self) -> [Vec<(String, Tensor)>; 2] {
        [OptimizerGroup::Encoders, OptimizerGroup::Head].map(|wanted| {
            let entries = self.store.entries().into_iter();
            let trainable = entries.filter(|(_, entry)| {
                entry.role == Role::Parameter
                    && entry.tensor.requires_grad()
                    && entry.group.optimizer == wanted
            });
            trainable.map(|(name, entry)| (name, entry.tensor)).collect()
        })
    }

    /// Index of the first image block that has a trainable parameter.
    pub(crate) fn first_trained_block(&self) -> Option<usize> {
        let trainable = self.trainable();
        let trains = |prefix: &String| trainable.iter().any(|(name, _)| name.starts_with(prefix.as_str()));
        self.image_blocks.iter().position(trains)
    }

    /// The whole network, from pixels and tokens to logits.
    ///
    /// - images: `[batch, 3, S, S]`, normalised; with [`Pass::image_of`], `[m, 3, S, S]`
    pub fn forward<'a>(
        &self,
        images: &Tensor,
        sentences: impl Into<Sentences<'a>>,
        pass: &Pass<'_>,
    ) -> TalentOutput {
        let sentences = sentences.into();
        let text = self.encode(sentences, pass);
        let sentence = Encoded::new(sentences, &text);
        let levels = trace_span!("vision blocks").in_scope(|| self.image_taps(images, &sentence.words, pass));
        self.forward_head(levels, sentence, pass.mode)
    }

    /// Encodes all sentences as one batch: expressions, then positives, then negatives.
    pub(crate) fn encode(&self, sentences: Sentences<'_>, pass: &Pass<'_>) -> TextOutput {
        self.store.set_mode(pass.mode);
        let ids = match sentences {
            Sentences::Plain(words) => words.shallow_clone(),
            Sentences::Triplet(Triplet { words, positives, negatives }) => {
                Tensor::cat(&[words, positives, negatives], 0)
            }
        };
        let observe = |stage: backbone::Stage, value: &Tensor| match stage {
            backbone::Stage::Tokens => (pass.observe)(Stage::Words, value),
            backbone::Stage::Block(index) => (pass.observe)(Stage::TextBlock(index), value),
            backbone::Stage::Patches => {}
        };
        let guest = self.text_adapters.guest(pass.mode);
        trace_span!("text").in_scope(|| self.text.forward(&ids, &guest, &observe))
    }

    /// Image features at three levels for each sentence: raw outputs of the two tapped blocks and the normalised final output,
    /// `[batch, D, S / patch, S / patch]` each.
    fn image_taps(&self, images: &Tensor, words: &Tensor, pass: &Pass<'_>) -> [Tensor; 3] {
        let (images, image_of) = sharing(images, pass.image_of, words);
        let observe = |stage: backbone::Stage, value: &Tensor| match stage {
            backbone::Stage::Patches => (pass.observe)(Stage::Patches, value),
            backbone::Stage::Tokens => (pass.observe)(Stage::Tokens, value),
            backbone::Stage::Block(index) => (pass.observe)(Stage::ImageBlock(index), value),
        };
        let seen = |block: usize, patches: &Tensor| (pass.observe)(Stage::AdapterPatches(block), patches);
        let guest = self.visual_adapters.guest(words, image_of, pass.mode, &seen);
        let Features { taps, last } = self.image.forward(&images, &self.cfg.image.taps, &guest, &observe);
        self.levels([&taps[0], &taps[1]], &last, image_of, words)
    }

    /// Feature maps at three levels, from the output tokens of the two tapped blocks and of the last block.
    ///
    /// - image_of, words: tokens with a row per image get one per sentence
    pub(crate) fn levels(
        &self,
        taps: [&Tensor; 2],
        last: &Tensor,
        image_of: Option<&Tensor>,
        words: &Tensor,
    ) -> [Tensor; 3] {
        let n_sentences = words.size()[0];
        let of_all = |tokens: &Tensor| rows_of(tokens, image_of.filter(|_| tokens.size()[0] != n_sentences));
        [of_all(taps[0]), of_all(taps[1]), self.image.normalise(&of_all(last))]
            .map(|tokens| self.image.map(&tokens))
    }

    /// Neck, decoder and projector.
    ///
    /// - taps: image features at three levels
    pub(crate) fn forward_head(&self, taps: [Tensor; 3], sentence: Encoded<'_>, mode: Mode) -> TalentOutput {
        let Encoded { ids, words, state, contrast } = sentence;
        let neck = trace_span!("neck").in_scope(|| self.neck.forward(&taps, &state, &words, mode));
        let padding = self.text.spec().input.padding;
        let visible = self.cfg.decoder.mask_padding.then(|| ids.ne(padding));
        let decoded = trace_span!("decoder")
            .in_scope(|| self.decoder.forward(&neck.features, &words, visible.as_ref(), mode));
        let logits = trace_span!("projector").in_scope(|| self.projector.forward(&decoded, &state, mode));
        TalentOutput { logits, words, state, contrast, taps, neck, decoded }
    }
}
