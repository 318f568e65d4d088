//! Checks that the types of a configuration cannot express.

use std::path::{Component, Path};

use anyhow::{Result, anyhow, ensure};
use talent::Tuning;
use toml::{Table, Value};

use super::{Config, DataConfig, EvalConfig, PretrainConfig, Regime, TrainConfig};
use crate::encoder_input::ensure_vocabulary;

impl Config {
    /// Checks ranges of values, and that settings fit together.
    ///
    /// # Errors
    /// Names the setting that does not fit.
    pub fn validate(&self) -> Result<()> {
        ensure_finite(self)?;
        ensure_name(&self.name)?;
        self.model.validate().map_err(|error| anyhow!("model.{}", error.0))?;
        ensure_vocabulary(&self.model)?;
        ensure!(
            self.train.regime != Regime::Full || self.model.tuning == Tuning::Adapters,
            "train.regime=full trains all of both encoders: model.tuning must be adapters then, or train.regime pet"
        );
        self.data.validate()?;
        let lonely = self.loss.in_need(|needs| needs.rivals && self.data.refs_per_image < 2);
        ensure!(
            lonely.is_empty(),
            "loss.{} compares expressions about one image: data.refs_per_image must be at least 2",
            lonely.join(", loss.")
        );
        let apart = self
            .loss
            .in_need(|needs| needs.rivals && self.train.batch_size / self.train.accumulate.max(1) < 2);
        ensure!(
            apart.is_empty(),
            "loss.{} compares expressions that go through the network together: train.batch_size must be at least twice \
             train.accumulate",
            apart.join(", loss.")
        );
        let blind = self.loss.in_need(|needs| needs.adapters && !self.model.adapters_see_words());
        ensure!(
            blind.is_empty(),
            "loss.{} compares patches with the sentence in the image adapters: model.tuning must be adapters then, and \
             model.image.fusion not none",
            blind.join(", loss.")
        );
        self.train.validate()?;
        self.loss.validate()?;
        self.eval.validate()?;
        self.pretrain.validate()
    }
}

/// Refuses numbers that are not finite. Training with them would work, but JSON cannot hold them, so the checkpoints could
/// not be read.
fn ensure_finite(config: &Config) -> Result<()> {
    fn check(key: &str, value: &Value) -> Result<()> {
        match value {
            Value::Table(inner) => {
                let key = |name: &str| if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
                inner.iter().try_for_each(|(name, value)| check(&key(name), value))
            }
            Value::Array(values) => values.iter().try_for_each(|value| check(key, value)),
            // Most numbers are used in float32.
            Value::Float(number) if !(*number as f32).is_finite() => {
                let hint = if key == "train.clip_norm" { "; 0 is for no clipping" } else { "" };
                Err(anyhow!("{key} must be a finite number in float32, not {number}{hint}"))
            }
            _ => Ok(()),
        }
    }
    check("", &Value::Table(Table::try_from(config)?))
}

/// Checks that the name can be a folder below `runs`: a run's default folder is `runs/NAME`.
fn ensure_name(name: &str) -> Result<()> {
    let inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    ensure!(!name.is_empty(), "name must not be empty");
    ensure!(
        inside && !name.chars().any(char::is_control),
        "name ({name}) must be that of a folder below runs: no `..`, no `/` in front, no control characters"
    );
    Ok(())
}

fn not_negative(values: &[(&str, f64)]) -> Result<()> {
    values.iter().try_for_each(|(key, value)| {
        ensure!(*value >= 0.0, "{key} ({value}) must not be negative");
        Ok(())
    })
}

impl DataConfig {
    fn validate(&self) -> Result<()> {
        ensure!(!self.datasets.is_empty(), "data.datasets must name at least one data set");
        for (place, name) in self.datasets.iter().enumerate() {
            ensure!(!self.datasets[..place].contains(name), "data.datasets names `{name}` twice");
        }
        ensure!(self.refs_per_image > 0, "data.refs_per_image must be positive");
        Ok(())
    }
}

impl TrainConfig {
    fn validate(&self) -> Result<()> {
        let Self { batch_size, accumulate, .. } = *self;
        ensure!(batch_size > 0, "train.batch_size must be positive");
        ensure!(
            accumulate > 0 && batch_size % accumulate == 0,
            "train.batch_size ({batch_size}) must be a multiple of train.accumulate ({accumulate})"
        );
        ensure!(self.epochs > 0, "train.epochs must be positive");
        not_negative(&[
            ("train.lr", self.lr),
            ("train.lr_encoders", self.lr_encoders),
            ("train.weight_decay", self.weight_decay),
            ("train.clip_norm", self.clip_norm),
        ])?;
        ensure!(
            self.betas.iter().all(|beta| (0.0..1.0).contains(beta)),
            "train.betas ({:?}) must be at least 0 and below 1",
            self.betas
        );
        // With eps = 0, Adam would divide a zero gradient by zero.
        ensure!(self.eps > 0.0, "train.eps ({}) must be positive", self.eps);
        ensure!((0.0..1.0).contains(&self.ema), "train.ema ({}) must be at least 0 and below 1", self.ema);
        ensure!(self.gamma > 0.0, "train.gamma ({}) must be positive", self.gamma);
        Ok(())
    }
}

impl EvalConfig {
    fn validate(&self) -> Result<()> {
        ensure!(self.batch_size > 0, "eval.batch_size must be positive");
        ensure!(self.every_epochs > 0, "eval.every_epochs must be positive");
        ensure!((0.0..1.0).contains(&self.threshold), "eval.threshold must be at least 0 and below 1");
        Ok(())
    }
}

impl PretrainConfig {
    fn validate(&self) -> Result<()> {
        ensure!(self.batch_size > 0, "pretrain.batch_size must be positive");
        not_negative(&[("pretrain.lr", self.lr)])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{Source, load};

    fn with(overrides: &[String]) -> Result<Config> {
        load(&Source { overrides: overrides.to_vec(), ..Source::default() })
    }

    fn error(text: &str) -> String {
        format!("{:#}", with(&[text.to_owned()]).unwrap_err())
    }

    #[test]
    fn numbers_that_make_no_sense_are_refused_by_key() {
        assert!(
            error("train.clip_norm=inf").contains(
                "train.clip_norm must be a finite number in float32, not inf; 0 is for no clipping"
            )
        );
        for (setting, key) in [
            ("train.lr=nan", "train.lr"),
            ("train.betas=[0.9, inf]", "train.betas"),
            ("train.betas=[1.0, 0.9]", "train.betas"),
            ("train.betas=[-0.1, 0.9]", "train.betas"),
            ("train.eps=-1e-8", "train.eps"),
            ("train.weight_decay=-0.1", "train.weight_decay"),
            ("train.gamma=0", "train.gamma"),
            ("eval.threshold=nan", "eval.threshold"),
            ("loss.cpcl=-inf", "loss.cpcl"),
            ("pretrain.lr=nan", "pretrain.lr"),
            ("model.decoder.dropout=nan", "model.decoder.dropout"),
            ("model.image.depth=0", "model.image.depth"),
        ] {
            let error = error(setting);
            assert!(error.contains(key), "{setting}: {error}");
        }
    }

    #[test]
    fn a_name_stays_below_the_runs() {
        for name in ["../../evil", "/tmp/evil", "a/../../b", "", "a\u{1b}[2J"] {
            let config = Config { name: name.into(), ..Config::tiny() };
            assert!(config.validate().unwrap_err().to_string().contains("name"), "{name}");
        }
        Config { name: "refcoco+/base".into(), ..Config::tiny() }.validate().unwrap();
    }

    /// All keys with their values in the tiny config.
    fn keys() -> Vec<(String, Value)> {
        fn add(table: &Table, prefix: &str, all: &mut Vec<(String, Value)>) {
            for (key, value) in table {
                match value {
                    Value::Table(inner) => add(inner, &format!("{prefix}{key}."), all),
                    value => all.push((format!("{prefix}{key}"), value.clone())),
                }
            }
        }
        let mut all = Vec::new();
        add(&Table::try_from(Config::tiny()).unwrap(), "", &mut all);
        all
    }

    /// A different value of the same type, in the syntax of `--set`.
    fn another(value: &Value, number: f64, whole: i64, text: &str) -> String {
        match value {
            Value::Float(_) => Value::Float(number).to_string(),
            Value::Integer(_) => whole.to_string(),
            Value::Boolean(_) => (whole % 2 == 0).to_string(),
            Value::String(_) => Value::String(text.to_owned()).to_string(),
            Value::Array(values) => {
                let values: Vec<String> =
                    values.iter().map(|value| another(value, number, whole, text)).collect();
                format!("[{}]", values.join(", "))
            }
            value => value.to_string(),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

        /// Every value of a key is either refused, or survives being written and read as TOML and as JSON.
        #[test]
        fn a_config_survives_being_written(
            at in 0..keys().len(),
            number in prop_oneof![
                any::<f64>(), 0.0..1.0_f64, Just(f64::NAN), Just(f64::INFINITY), Just(f64::MIN_POSITIVE / 8.0), Just(-0.0)
            ],
            whole in prop_oneof![any::<i64>(), 0..100_i64],
            text in any::<String>(),
        ) {
            let (key, value) = &keys()[at];
            let Ok(config) = with(&[format!("{key}={}", another(value, number, whole, &text))]) else { return Ok(()) };
            let json = serde_json::to_string(&config).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Config>(&json).unwrap(), &config, "{}", json);
            let toml = toml::to_string_pretty(&config).unwrap();
            prop_assert_eq!(&toml::from_str::<Config>(&toml).unwrap(), &config, "{}", toml);
        }
    }
}
