//! Device, data, tokenizer and model, which training, evaluation and prediction share.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use cli_kit::errln;
use command_kit::leave_out_unreadable;
use refcoco::evaluation::{Query, queries, queries_of};
use refcoco::training_mix::TrainingMix;
use refcoco::{Dataset, OnError, RefAt, SampleShape, Tokenizer, sampler};
use talent::Talent;
use talent::weights::Strictness;
use tch::{Device, Kind};

use crate::checkpoint::{self, EncoderRoot, Meta};
use crate::config::{self, Config, Source, TrainConfig};
use crate::distributed::{Processes, local_device};
use crate::encoder_input::{sample_shape, tokenizer};
use crate::interrupt::Interrupt;
use crate::memory_limit::ensure_fits;

/// Upper limit of --threads: that of `openmp-pool`'s regions.
const MAX_THREADS: usize = 1024;

/// Settings of a process that do not change results.
#[derive(Debug, Clone, clap::Args)]
pub struct Machine {
    /// auto, cpu or cuda:N
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// CPU threads [default: all cores]
    #[arg(long)]
    pub threads: Option<usize>,
}

impl Machine {
    /// Applies the thread count and finds the device.
    ///
    /// # Errors
    /// When the device does not exist, or `TALENT_PRODUCTS` names no library.
    pub(crate) fn set_up(&self) -> Result<Device> {
        if let Some(n) = self.threads {
            anyhow::ensure!((1..=MAX_THREADS).contains(&n), "--threads {n}: it must be 1 to {MAX_THREADS}");
            tch::set_num_threads(n as i32);
            // Fails only if the pool exists already, for example when one process runs several commands.
            let _ = rayon::ThreadPoolBuilder::new().num_threads(n).build_global();
        }
        // Refuses a TALENT_PRODUCTS that names no library, before any work.
        torch_ext::cpu_kernels()?;
        // No TF32 unless a config asks for it.
        torch_ext::allow_tf32(false)?;
        let cuda = if tch::Cuda::is_available() { tch::Cuda::device_count() } else { 0 };
        match self.device.as_str() {
            "auto" if cuda == 0 => Ok(Device::Cpu),
            "cpu" => Ok(Device::Cpu),
            name => {
                let index = match name {
                    "auto" | "cuda" => Some(local_device()?),
                    _ => name.strip_prefix("cuda:").and_then(|index| index.parse::<usize>().ok()),
                };
                let index =
                    index.with_context(|| format!("--device {name}: expected auto, cpu or cuda:N"))?;
                if index as i64 >= cuda {
                    bail!("--device {name}: libtorch sees {cuda} CUDA devices{}", why_no_device(cuda));
                }
                Ok(Device::Cuda(index))
            }
        }
    }
}

/// What to do where libtorch sees fewer CUDA devices than were asked for.
fn why_no_device(n_devices: i64) -> &'static str {
    let has_driver = Path::new("/dev/nvidiactl").exists();
    match (n_devices, has_driver) {
        (0, false) => "; there is no NVIDIA driver here (no /dev/nvidiactl)",
        (0, true) if std::env::var_os("CUDA_VISIBLE_DEVICES").is_some() => {
            "; look at CUDA_VISIBLE_DEVICES, and whether this PyTorch is a CUDA build (`pip show torch`)"
        }
        (0, true) => "; this PyTorch may be a CPU build, or the driver too old for it (`nvidia-smi`)",
        _ => "; they are counted from cuda:0 on",
    }
}

/// Opens the data sets below a root. Data sets that can be generated are generated first if they are missing.
pub(crate) fn open_datasets(names: &[String], data_root: &Path) -> Result<Vec<Dataset>> {
    names.iter().map(|name| command_kit::open(name, data_root)).collect()
}

/// Options for loading a stored model.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct StoredModel {
    /// Config for a checkpoint that does not contain one, such as an official best_model.pth: a shipped name (refcoco/base) or
    /// a TOML file
    #[arg(long)]
    config: Option<String>,
    /// Keep the initial values of missing tensors whose official names start with PREFIX
    #[arg(long, value_name = "PREFIX")]
    allow_missing: Vec<String>,
    #[command(flatten)]
    encoders: EncoderRoot,
}

impl StoredModel {
    /// Verifies a checkpoint. Returns its config (from the checkpoint or from --config) and its metadata, if any.
    pub(crate) fn open(&self, checkpoint: &Path) -> Result<(Config, Option<Meta>)> {
        match (checkpoint::verified_meta(checkpoint)?, &self.config) {
            (Some(meta), None) => Ok((meta.config.clone(), Some(meta))),
            (Some(_), Some(_)) => bail!("{}: it holds its config; leave out --config", checkpoint.display()),
            (None, Some(name)) => {
                Ok((config::load(&Source { config: Some(name.clone()), ..Source::default() })?, None))
            }
            (None, None) => bail!(
                "{}: it does not say which network it is for; name its config: --config FILE (config.toml of the run it comes from) or a \
                 shipped one, such as --config refcoco/base",
                checkpoint.display()
            ),
        }
    }

    /// `--config`, as given.
    pub(crate) fn named_config(&self) -> Option<&str> {
        self.config.as_deref()
    }

    /// `--allow-missing`, as given.
    pub(crate) fn missing(&self) -> &[String] {
        &self.allow_missing
    }

    /// Loads the checkpoint into a network built from that config.
    ///
    /// - meta: from [`StoredModel::open`]
    pub(crate) fn fill(&self, model: &Talent, checkpoint: &Path, meta: Option<&Meta>) -> Result<()> {
        let strictness = Strictness { allow_missing: self.allow_missing.clone() };
        checkpoint::load_model(model, checkpoint, meta, &strictness, &self.encoders)
    }
}

/// What a run evaluates.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum EvalScope {
    /// All splits.
    Whole,
    /// The first batch of each split.
    FirstBatch,
    /// The refs that are trained on, in place of all splits.
    Refs(Vec<RefAt>),
}

/// Name of the split that [`EvalScope::Refs`] stands for.
const OVERFITTED: &str = "overfitted batches";

/// A model with its config, device, data sets and tokenizer.
#[derive(Debug)]
pub(crate) struct Experiment {
    pub(crate) cfg: Config,
    pub(crate) device: Device,
    pub(crate) datasets: Arc<Vec<Dataset>>,
    pub(crate) tokenizer: Arc<dyn Tokenizer>,
    pub(crate) model: Talent,
    /// What is evaluated.
    pub(crate) scope: EvalScope,
    /// Set when a signal asks long work to stop.
    pub(crate) interrupt: Interrupt,
    /// The ranks that work on it together.
    pub(crate) processes: Processes,
}

impl Experiment {
    /// Opens the data sets and builds the model, with initial values drawn from the config's seed.
    pub(crate) fn new(cfg: Config, device: Device, data_root: &Path, processes: &Processes) -> Result<Self> {
        let opened = processes.leader_first(|| open_datasets(&cfg.data.datasets, data_root));
        let mut datasets = opened.map_err(|error| match error.downcast_ref() {
            Some(refcoco::Error::Layout { .. }) => anyhow!("{error:#}; {}", cfg.fetch_advice()),
            _ => error,
        })?;
        if cfg.eval.on_error == OnError::Skip {
            for dataset in &mut datasets {
                let splits = dataset.evaluated_splits();
                leave_out_unreadable(dataset, &splits)?;
            }
        }
        let experiment = Self::with_datasets(cfg, device, datasets)?;
        Ok(Self { processes: processes.clone(), ..experiment })
    }

    pub(crate) fn with_datasets(cfg: Config, device: Device, datasets: Vec<Dataset>) -> Result<Self> {
        ensure_fits(&cfg.model, 1)?;
        if let Some(why) = cfg.train.precision.slowness(device) {
            errln!("note: {why}");
        }
        let model = Talent::seeded(&cfg.model, device, Kind::Float, cfg.seed)?;
        // Seeds what is drawn from here on: dropout.
        tch::manual_seed(cfg.seed as i64);
        model.train_only(cfg.train.regime.into());
        let tokenizer = tokenizer(&cfg)?;
        let interrupt = Interrupt::default();
        let processes = Processes::default();
        let (datasets, scope) = (Arc::new(datasets), EvalScope::Whole);
        Ok(Self { cfg, device, datasets, tokenizer, model, scope, interrupt, processes })
    }

    pub(crate) fn shape(&self) -> SampleShape {
        sample_shape(&self.cfg.model)
    }

    /// Shortens training or evaluation, as `--fast-dev-run` and `train.overfit_batches` ask for.
    pub(crate) fn shorten(&mut self, fast_dev_run: bool, mix: &TrainingMix) {
        let TrainConfig { overfit_batches, batch_size, .. } = self.cfg.train;
        if overfit_batches > 0 {
            let mut chosen = self.pass_over(&mix.refs, 0);
            chosen.truncate(overfit_batches.saturating_mul(batch_size));
            self.scope = EvalScope::Refs(chosen);
        } else if fast_dev_run {
            self.scope = EvalScope::FirstBatch;
        }
    }

    /// Refs in the order in which a pass over them visits them, with those of an image beside each other if the config wants it.
    ///
    /// - number: of the pass, from 0
    pub(crate) fn pass_over(&self, refs: &[RefAt], number: u64) -> Vec<RefAt> {
        let order = sampler::epoch_order(self.cfg.seed, number, refs.len());
        let order = sampler::with_rivals(&self.datasets, refs, &order, self.cfg.data.refs_per_image);
        order.into_iter().map(|index| refs[index]).collect()
    }

    /// The validation split of a data set, if there is something to validate on.
    pub(crate) fn validation_split(&self, position: usize) -> Option<String> {
        match &self.scope {
            EvalScope::Refs(_) => self.evaluated_splits(position).pop(),
            _ => {
                let dataset = &self.datasets[position];
                dataset.has_validation_split().then(|| dataset.descriptor.val.clone())
            }
        }
    }

    /// The splits of a data set that a run's final evaluation covers.
    pub(crate) fn evaluated_splits(&self, position: usize) -> Vec<String> {
        match &self.scope {
            EvalScope::Refs(refs) if refs.iter().any(|at| at.dataset == position) => vec![OVERFITTED.into()],
            EvalScope::Refs(_) => Vec::new(),
            _ => self.datasets[position].evaluated_splits(),
        }
    }

    /// The queries of a split.
    ///
    /// # Errors
    /// When the split does not exist.
    pub(crate) fn queries(&self, position: usize, split: &str) -> refcoco::Result<Vec<Query>> {
        let dataset = &self.datasets[position];
        if let EvalScope::Refs(refs) = &self.scope {
            let mut own: Vec<usize> =
                refs.iter().filter(|at| at.dataset == position).map(|at| at.index).collect();
            own.sort_unstable();
            return Ok(queries_of(dataset, own));
        }
        let mut all = queries(dataset, split)?;
        self.cut(&mut all);
        Ok(all)
    }

    /// Shortens a list of queries as the scope says.
    pub(crate) fn cut(&self, queries: &mut Vec<Query>) {
        if matches!(self.scope, EvalScope::FirstBatch) {
            queries.truncate(self.cfg.eval.batch_size);
        }
    }

    /// A split's name in tables and files, with the data set's name in front if there are several data sets.
    pub(crate) fn split_name(&self, position: usize, split: &str) -> String {
        match self.datasets.len() {
            1 => split.to_owned(),
            _ => format!("{}/{split}", self.datasets[position].descriptor.name),
        }
    }
}
