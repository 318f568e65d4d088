//! The section `loss` of a config: the weight of every loss (0 switches it off), and the other settings of each loss. The
//! losses themselves declare the keys, see `LOSSES`.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Number;

use crate::losses::{LOSSES, Needs, Setting};

/// Weights and settings of all losses by key. A key that is missing from a document gets its published value.
#[derive(Debug, Clone, PartialEq)]
pub struct LossConfig(BTreeMap<&'static str, f64>);

fn settings() -> impl Iterator<Item = &'static Setting> {
    LOSSES.iter().flat_map(|loss| loss.settings())
}

fn is_whole(key: &str) -> bool {
    settings().any(|setting| setting.key == key && setting.is_whole)
}

impl Default for LossConfig {
    /// The official recipe.
    fn default() -> Self {
        let weights = LOSSES.iter().map(|loss| (loss.name(), loss.weight()));
        Self(weights.chain(settings().map(|setting| (setting.key, setting.default))).collect())
    }
}

impl LossConfig {
    /// The value of a key. For a key that no loss has, NaN, which no check accepts.
    pub(crate) fn get(&self, key: &str) -> f64 {
        self.0.get(key).copied().unwrap_or(f64::NAN)
    }

    /// Names of the losses that are switched on and need something of a batch.
    pub(crate) fn in_need(&self, of: impl Fn(Needs) -> bool) -> Vec<&'static str> {
        let wanted = LOSSES.iter().filter(|loss| self.get(loss.name()) > 0.0 && of(loss.needs()));
        wanted.map(|loss| loss.name()).collect()
    }

    /// Checks all weights and settings.
    ///
    /// # Errors
    /// Names the key whose value makes no sense.
    pub(super) fn validate(&self) -> Result<()> {
        for loss in LOSSES {
            let (key, weight) = (loss.name(), self.get(loss.name()));
            ensure!(weight >= 0.0, "loss.{key} ({weight}) must not be negative");
        }
        for Setting { key, allows, expected, .. } in settings() {
            let value = self.get(key);
            // Check the value as float32: values that underflow to zero act as zero.
            ensure!(allows((value as f32).into()), "loss.{key} ({value}) must be {expected}");
        }
        let some = LOSSES.iter().any(|loss| self.get(loss.name()) > 0.0);
        ensure!(some, "at least one loss weight must be positive");
        Ok(())
    }
}

impl Serialize for LossConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(untagged)]
        enum Value {
            Whole(i64),
            Float(f64),
        }
        serializer.collect_map(self.0.iter().map(|(key, value)| match is_whole(key) {
            true => (key, Value::Whole(*value as i64)),
            false => (key, Value::Float(*value)),
        }))
    }
}

impl<'de> Deserialize<'de> for LossConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let found = BTreeMap::<String, Number>::deserialize(deserializer)?;
        let mut config = Self::default();
        for (key, number) in found {
            let Some((known, value)) = config.0.iter_mut().find(|(known, _)| **known == key) else {
                return Err(D::Error::custom(format!("unknown key `loss.{key}`")));
            };
            let fits =
                !is_whole(known) || number.as_i64().is_some_and(|whole| whole.unsigned_abs() < 1 << 53);
            let found = number.as_f64().filter(|_| fits);
            *value =
                found.ok_or_else(|| D::Error::custom(format!("loss.{key}: {number} is no whole number")))?;
        }
        Ok(config)
    }
}
