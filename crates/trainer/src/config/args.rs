//! The command-line flags that choose a config.

use std::path::Path;

use anyhow::Result;
use clap::Args;
use command_kit::DEFAULT_DATA_ROOT;

use super::{Config, MAX_SEED, Precision, Regime, Source, load};

#[derive(Debug, Clone, Default, PartialEq, Args)]
pub(crate) struct ConfigArgs {
    /// Preset: tiny, testbed, base or large [default: tiny]
    #[arg(long, conflicts_with = "config")]
    pub(crate) preset: Option<String>,
    /// Shipped config, such as refcoco/base, or a TOML file
    #[arg(long)]
    pub(crate) config: Option<String>,
    /// Data set to train and evaluate on, such as refcoco
    #[arg(long)]
    dataset: Option<String>,
    /// Config keys to override
    #[arg(long = "set", value_name = "KEY=VALUE", num_args = 1..)]
    pub(crate) overrides: Vec<String>,
    /// Random seed
    #[arg(long, value_parser = clap::value_parser!(u64).range(..=MAX_SEED))]
    pub(crate) seed: Option<u64>,
    /// Precision of matrix products and convolutions
    #[arg(long)]
    precision: Option<Precision>,
    /// Which parameters train: pet (what model.tuning names, and the head) or full
    #[arg(long)]
    regime: Option<Regime>,
}

impl ConfigArgs {
    /// Whether `--preset` or `--config` is given, and not only overrides.
    pub(crate) fn names_a_config(&self) -> bool {
        self.preset.is_some() || self.config.is_some()
    }

    /// Like [`ConfigArgs::load`], for benchmarks, which open no data set.
    pub(crate) fn load_for_bench(&self) -> Result<Config> {
        self.load(Path::new(DEFAULT_DATA_ROOT))
    }

    pub(crate) fn load(&self, data_root: &Path) -> Result<Config> {
        self.load_over(None, data_root)
    }

    /// Loads the config.
    ///
    /// - base: config that the overrides apply to, for use when neither `--preset` nor `--config` is given
    pub(crate) fn load_over(&self, base: Option<Config>, data_root: &Path) -> Result<Config> {
        let mut source = Source {
            base,
            preset: self.preset.clone(),
            config: self.config.clone(),
            dataset: self.dataset.clone(),
            overrides: self.overrides.clone(),
            data_root: data_root.to_path_buf(),
        };
        source.overrides.extend(self.seed.map(|seed| format!("seed={seed}")));
        if let Some(precision) = self.precision {
            source.overrides.push(format!("train.precision={}", serde_json::to_value(precision)?));
        }
        if let Some(regime) = self.regime {
            source.overrides.push(format!("train.regime={}", serde_json::to_value(regime)?));
        }
        load(&source)
    }
}
