//! The configuration of a run: every setting that may change its result, and no other settings.

mod args;
mod fetch_advice;
mod load;
mod loss;
mod validate;

pub(crate) use args::ConfigArgs;
pub use load::{Source, differences, flat, load};
pub use loss::LossConfig;

use refcoco::OnError;
use refcoco::sampler::Negatives;
use serde::{Deserialize, Serialize};
use talent::{ModelConfig, TrainedParts};

/// The largest seed: TOML integers are signed.
pub(crate) const MAX_SEED: u64 = i64::MAX as u64;

/// A complete configuration. See `configs/` for the shipped ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of the run's folder.
    pub name: String,
    /// Random seed of initial values, data order, expression choice and dropout.
    pub seed: u64,
    /// The network.
    pub model: ModelConfig,
    /// Pretrained encoders.
    pub weights: WeightsConfig,
    /// Data settings.
    pub data: DataConfig,
    /// Training settings.
    pub train: TrainConfig,
    /// Weights and settings of the losses.
    pub loss: LossConfig,
    /// Evaluation settings.
    pub eval: EvalConfig,
    /// How `pretrain` makes the encoders.
    #[serde(default)]
    pub pretrain: PretrainConfig,
}

/// How `pretrain` makes the encoders of a testbed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PretrainConfig {
    /// A generated data set. Encoders are trained on its `train` split and evaluated on its `val` split.
    pub dataset: String,
    /// Random seed of initial values and of the order of the scenes.
    pub seed: u64,
    /// Scenes per step; the number of expressions is twice as large.
    pub batch_size: usize,
    /// Training steps of the image encoder.
    pub image_steps: u64,
    /// Training steps of the text encoder.
    pub text_steps: u64,
    /// Adam's learning rate.
    pub lr: f64,
}

impl Default for PretrainConfig {
    fn default() -> Self {
        Self {
            dataset: "refshapes_pretrain".into(),
            seed: 0,
            batch_size: 64,
            image_steps: 4500,
            text_steps: 400,
            lr: 2e-3,
        }
    }
}

/// Files with pretrained encoders. With an empty path the encoder starts from random values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightsConfig {
    /// Image encoder: a file, or a folder from Hugging Face.
    pub image: String,
    /// Text encoder, likewise.
    pub text: String,
    /// `tokenizer.json` of a text encoder whose tokenizer is not built in, or its folder; if empty, it is looked for beside the text
    /// encoder's weights.
    #[serde(default)]
    pub tokenizer: String,
    /// Folder of the `peft` library with LoRA matrices for the image encoder to start from; `model.tuning` must be `lora`.
    #[serde(default)]
    pub image_lora: String,
    /// The same for the text encoder.
    #[serde(default)]
    pub text_lora: String,
}

impl WeightsConfig {
    /// Encoders from these files, without LoRA matrices; empty for random values.
    pub fn of(image: &str, text: &str) -> Self {
        let (tokenizer, image_lora, text_lora) = Default::default();
        Self { image: image.to_owned(), text: text.to_owned(), tokenizer, image_lora, text_lora }
    }
}

/// Data settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Data sets trained on together; evaluation covers each of them.
    pub datasets: Vec<String>,
    /// Whether training on several data sets keeps images that one of them evaluates on. Keeping them inflates results.
    #[serde(default)]
    pub keep_evaluated_images: bool,
    /// Largest number of refs of one image that stand beside each other in a batch, those of one category first. From 2 on, the image
    /// is encoded once for all of them, up to the first adapter's cross-modal unit.
    #[serde(default = "default_refs_per_image")]
    pub refs_per_image: usize,
    /// Which object the negative expressions of the contrastive loss are about: `any-object` or `same-category`.
    #[serde(default)]
    pub negatives: Negatives,
    /// What happens when a training sample cannot be read: `stop` ends the run; `skip` leaves it out, counts it and lists it.
    #[serde(default)]
    pub on_error: OnError,
    /// Number of different samples that may be skipped; with more, the run stops.
    #[serde(default = "default_max_bad_samples")]
    pub max_bad_samples: usize,
}

fn default_refs_per_image() -> usize {
    1
}

fn default_max_bad_samples() -> usize {
    100
}

/// Which parameters train.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Regime {
    /// Parameter-efficient tuning: the head, and what `model.tuning` names; the encoders are otherwise frozen.
    Pet,
    /// All parameters.
    Full,
}

impl From<Regime> for TrainedParts {
    fn from(regime: Regime) -> Self {
        match regime {
            Regime::Pet => Self::Tuned,
            Regime::Full => Self::All,
        }
    }
}

/// Precision of matrix products and convolutions. Parameters and Adam's moments are always float32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// float32 throughout.
    Fp32,
    /// float32, but a GPU may round the operands of products and convolutions to TF32; plain float32 on the CPU.
    Tf32,
    /// bfloat16 autocast.
    Bf16,
    /// float16 autocast with loss scaling, as in the official code.
    Fp16,
}

/// Learning rate schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Multiplied by `gamma` after each of the `milestones` (epochs), as in the official code.
    MultiStep,
    /// Linear warm-up over `warmup_steps`, then cosine decay (half a period) to zero at the end.
    Cosine,
}

/// Training settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Which parameters train.
    pub regime: Regime,
    /// Passes over all training refs; each pass draws one expression per ref.
    pub epochs: u64,
    /// Refs per optimiser step.
    pub batch_size: usize,
    /// Gradient accumulation: number of parts a batch is split into to save memory. Batch statistics are then those of a part.
    pub accumulate: usize,
    /// Precision of forward and backward pass.
    pub precision: Precision,
    /// Learning rate of the head.
    pub lr: f64,
    /// Learning rate of everything inside the encoders (adapters included).
    pub lr_encoders: f64,
    /// Adam's decay rates.
    pub betas: [f64; 2],
    /// Adam's epsilon.
    pub eps: f64,
    /// Weight decay, as an L2 penalty.
    pub weight_decay: f64,
    /// Maximum gradient norm; 0 for no clipping.
    pub clip_norm: f64,
    /// Learning rate schedule.
    pub schedule: Schedule,
    /// Epochs after which `multi-step` lowers the learning rate.
    pub milestones: Vec<u64>,
    /// Factor that `multi-step` multiplies the learning rate by.
    pub gamma: f64,
    /// Number of warm-up steps of `cosine`.
    pub warmup_steps: u64,
    /// Decay of the exponential moving average of the weights (EMA), which evaluations and saved models then use; 0 for none.
    #[serde(default)]
    pub ema: f64,
    /// Early stopping: number of evaluations in a row without a better validation mIoU after which the run ends; 0 for never.
    #[serde(default)]
    pub patience: u64,
    /// Trains on the first N batches over and over and evaluates on them alone, to see whether the network can fit them; 0 for all
    /// data.
    #[serde(default)]
    pub overfit_batches: usize,
}

/// Evaluation settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvalConfig {
    /// Probability above which a pixel is foreground.
    pub threshold: f32,
    /// Expressions per forward pass.
    pub batch_size: usize,
    /// Epochs between evaluations on the validation splits.
    pub every_epochs: u64,
    /// Which expressions of the validation split the best model is selected on.
    pub selection: Selection,
    /// What happens when an image or a target of an evaluated ref cannot be read, or an expression has no text: `stop` ends the
    /// run; `skip` leaves the ref out and counts it.
    #[serde(default)]
    pub on_error: OnError,
}

/// Which expressions of a validation split the best model is selected on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selection {
    /// All expressions of every ref, as in the final evaluation.
    AllExpressions,
    /// The first expression of every ref, as in the official training.
    FirstExpression,
}

impl Config {
    /// The small network, trained from scratch on RefShapes in minutes on two CPU cores.
    pub fn tiny() -> Self {
        let mut config = Self::base();
        config.name = "tiny".into();
        config.model = ModelConfig::tiny();
        config.weights = WeightsConfig::of("", "");
        config.data.datasets = vec!["refshapes".into()];
        config.train = TrainConfig {
            regime: Regime::Full,
            epochs: 5,
            lr: 1e-3,
            lr_encoders: 1e-3,
            clip_norm: 1.0,
            schedule: Schedule::Cosine,
            milestones: vec![],
            warmup_steps: 100,
            ..config.train
        };
        config.eval.batch_size = 64;
        config
    }

    /// The testbed for non-target activation (NTA): a small network trained as in the paper, with frozen encoders that
    /// `pretrain` makes.
    pub fn testbed() -> Self {
        let mut config = Self::tiny();
        config.name = "testbed".into();
        config.model = ModelConfig::testbed();
        config.weights =
            WeightsConfig::of("weights/testbed/image.safetensors", "weights/testbed/text.safetensors");
        config.data.datasets = vec!["refshapes_nta".into()];
        config.train.regime = Regime::Pet;
        config.train.epochs = 6;
        // The best of 0.001, 0.002 and 0.004 for the baseline (docs/reproduction.md).
        (config.train.lr, config.train.lr_encoders) = (4e-3, 4e-3);
        config
    }

    /// The official base model and recipe on RefCOCO.
    pub fn base() -> Self {
        Self {
            name: "base".into(),
            seed: 0,
            model: ModelConfig::base(),
            weights: WeightsConfig::of("weights/dinov2_vitb14_reg4_pretrain.pth", "weights/ViT-B-16.pt"),
            data: DataConfig {
                datasets: vec!["refcoco".into()],
                keep_evaluated_images: false,
                refs_per_image: default_refs_per_image(),
                negatives: Negatives::default(),
                on_error: OnError::Stop,
                max_bad_samples: default_max_bad_samples(),
            },
            train: TrainConfig {
                regime: Regime::Pet,
                epochs: 65,
                batch_size: 32,
                accumulate: 1,
                precision: Precision::Fp32,
                lr: 1e-4,
                lr_encoders: 1e-4,
                betas: [0.9, 0.999],
                eps: 1e-8,
                weight_decay: 0.0,
                clip_norm: 0.0,
                schedule: Schedule::MultiStep,
                milestones: vec![35, 55],
                gamma: 0.1,
                warmup_steps: 0,
                ema: 0.0,
                patience: 0,
                overfit_batches: 0,
            },
            loss: LossConfig::default(),
            eval: EvalConfig {
                threshold: 0.35,
                batch_size: 64,
                every_epochs: 1,
                selection: Selection::AllExpressions,
                on_error: OnError::Stop,
            },
            pretrain: PretrainConfig::default(),
        }
    }

    /// The official large model and recipe on RefCOCO.
    pub fn large() -> Self {
        let mut config = Self::base();
        config.name = "large".into();
        config.model = ModelConfig::large();
        config.weights.image = "weights/dinov2_vitl14_reg4_pretrain.pth".into();
        config.train.epochs = 50;
        config.train.milestones = vec![35];
        config.eval.batch_size = 32;
        config
    }
}
