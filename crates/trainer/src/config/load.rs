use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use toml::{Table, Value};

use super::Config;

/// Where a configuration comes from.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// `tiny`, `testbed`, `base` or `large`.
    pub preset: Option<String>,
    /// A shipped config's name or a TOML file.
    pub config: Option<String>,
    /// Data set that replaces the config's data sets; the config's word length becomes that of this data set.
    pub dataset: Option<String>,
    /// `key.path=value` overrides.
    pub overrides: Vec<String>,
    /// Config that the overrides apply to instead of a preset or file: that of a resumed run.
    pub base: Option<Config>,
    /// Folder of the user's own data sets.
    pub data_root: PathBuf,
}

macro_rules! shipped {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("../../configs/", $name, ".toml")))),+]
    };
}

/// The configs of the official experiments, by name.
pub(crate) const SHIPPED: &[(&str, &str)] = shipped![
    "refcoco/base",
    "refcoco/large",
    "refcoco+/base",
    "refcoco+/large",
    "refcocog_u/base",
    "refcocog_u/large",
    "refcocog_g/base",
    "refcocog_g/large",
    "mixed/base",
    "mixed/large",
    "refcoco/dinov2-small",
    "refcoco/dinov2-base",
    "refcoco/dinov2-large",
    "refcoco/dinov2-giant",
    "refcoco/dinov3-small",
    "refcoco/dinov3-small-plus",
    "refcoco/dinov3-base",
    "refcoco/dinov3-large",
    "refcoco/dinov3-huge-plus",
    "refcoco/dinov3-base-siglip2",
    "refcoco/instance-levels",
    "refcoco/rca-instance",
];

/// Names of the presets.
const PRESETS: [&str; 4] = ["tiny", "testbed", "base", "large"];

/// Builds a configuration in layers: preset, then file, then data set, then overrides.
///
/// # Errors
/// For an unknown name or key; the message suggests the nearest valid one. For a value of another type, and for settings
/// that do not fit together; the message names the keys.
pub fn load(source: &Source) -> Result<Config> {
    let file = match &source.config {
        Some(name) => Some((name.as_str(), read(name)?)),
        None => None,
    };
    let mut layer = Table::new();
    let mut preset = source.preset.clone();
    if let Some((name, text)) = file {
        layer = text.parse().map_err(|error: toml::de::Error| anyhow!("config {name}: {error}"))?;
        if let Some(value) = layer.remove("preset") {
            let value = value.as_str().with_context(|| format!("config {name}: `preset` must be text"))?;
            preset.get_or_insert_with(|| value.to_owned());
        }
    }
    let preset = preset.as_deref().unwrap_or("tiny");
    let base = match preset {
        _ if source.base.is_some() => source.base.clone().unwrap_or_else(Config::tiny),
        "tiny" => Config::tiny(),
        "base" => Config::base(),
        "large" => Config::large(),
        "testbed" => Config::testbed(),
        other => match shipped(other) {
            Some(config) => bail!("unknown preset `{other}`: it is a config, --config {config}"),
            None => bail!("unknown preset `{other}`; nearest is `{}`", nearest(other, PRESETS)),
        },
    };
    let mut table = Table::try_from(base)?;
    let mut chosen_keys = keys(&layer, "");
    merge(&mut table, layer, "")?;
    if let Some(name) = &source.dataset {
        let word_len = refcoco::Descriptor::find(name, &source.data_root)?.word_len as i64;
        let mut chosen = Table::new();
        set(&mut chosen, &["data", "datasets"], Value::Array(vec![Value::String(name.clone())]));
        // A trained network keeps the length that its weights have the shape of.
        if source.base.is_none() {
            set(&mut chosen, &["model", "word_len"], Value::Integer(word_len));
        }
        merge(&mut table, chosen, "")?;
    }
    for text in &source.overrides {
        let (key, value) =
            text.split_once('=').with_context(|| format!("--set {text}: expected key=value"))?;
        let path: Vec<&str> = key.trim().split('.').collect();
        let mut chosen = Table::new();
        set(&mut chosen, &path, parse_value(value.trim()));
        chosen_keys.extend(keys(&chosen, ""));
        merge(&mut table, chosen, "").with_context(|| format!("--set {text}"))?;
    }
    // The error message in one line.
    let wrong = |error: toml::de::Error| anyhow!("config: {}", error.to_string().trim().replace('\n', " "));
    let mut config: Config = table.try_into().map_err(wrong)?;
    config.model.follow(&|key| chosen_keys.iter().any(|chosen| chosen.strip_prefix("model.") == Some(key)));
    config.validate()?;
    Ok(config)
}

fn read(name: &str) -> Result<String> {
    if let Some((_, text)) = SHIPPED.iter().find(|(shipped, _)| *shipped == name) {
        return Ok((*text).to_owned());
    }
    let path = Path::new(name);
    let is_preset = !path.is_file() && PRESETS.contains(&name);
    ensure!(
        !is_preset,
        "no config is called `{name}`: it is a preset, for --preset of `train`, `ablate` and `params`"
    );
    if let (false, Some(config)) = (path.is_file(), shipped(name)) {
        bail!("no config is called `{name}`, but `{config}`");
    }
    ensure!(
        path.is_file(),
        "no config is called `{name}` and there is no such file; nearest is `{}`",
        nearest(name, SHIPPED.iter().map(|(shipped, _)| *shipped))
    );
    std::fs::read_to_string(path).with_context(|| name.to_owned())
}

/// The shipped config of RefCOCO with this name.
fn shipped(name: &str) -> Option<&'static str> {
    SHIPPED.iter().map(|(shipped, _)| *shipped).find(|shipped| shipped.strip_prefix("refcoco/") == Some(name))
}

/// The most similar of several names.
fn nearest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> &'a str {
    let similar = |candidate: &&str| (strsim::jaro_winkler(name, candidate) * 1e6) as u64;
    names.into_iter().max_by_key(similar).unwrap_or_default()
}

fn set(table: &mut Table, path: &[&str], value: Value) {
    match path {
        [] => {}
        [last] => {
            table.insert((*last).to_owned(), value);
        }
        [first, rest @ ..] => {
            let mut inner = Table::new();
            set(&mut inner, rest, value);
            table.insert((*first).to_owned(), Value::Table(inner));
        }
    }
}

/// Parses text as a TOML value; text that is not one becomes a string.
fn parse_value(text: &str) -> Value {
    let parsed = format!("value = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("value"));
    parsed.unwrap_or_else(|| Value::String(text.to_owned()))
}

/// What a setting must be, in a user's words.
fn in_words(value: &Value) -> &'static str {
    match value {
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number",
        Value::String(_) => "text",
        Value::Boolean(_) => "true or false",
        Value::Array(_) => "a list",
        Value::Table(_) => "a table of settings",
        Value::Datetime(_) => "a date",
    }
}

/// Tables whose keys a config has only where they differ from what is published. Deserialising checks their names and types.
const OF_VARIANTS: [&str; 2] = ["model.image.variant", "model.text.variant"];

/// All keys of a table, with dots.
fn keys(table: &Table, prefix: &str) -> Vec<String> {
    let mut all = Vec::new();
    for (key, value) in table {
        let full = format!("{prefix}{key}");
        match value {
            Value::Table(inner) => all.extend(keys(inner, &format!("{full}."))),
            _ => all.push(full),
        }
    }
    all
}

/// Overwrites values in `table` with those in `layer`. The table is complete but for [`OF_VARIANTS`], so a key that it lacks is
/// unknown.
fn merge(table: &mut Table, layer: Table, prefix: &str) -> Result<()> {
    for (key, value) in layer {
        let full = format!("{prefix}{key}");
        if OF_VARIANTS.contains(&full.as_str())
            && let Value::Table(layer) = value
        {
            let variant = table.entry(key).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(variant) = variant {
                variant.extend(layer);
            }
            continue;
        }
        let Some(target) = table.get_mut(&key) else {
            let near = nearest(&key, table.keys().map(String::as_str));
            bail!("unknown key `{full}`; nearest is `{prefix}{near}`");
        };
        match (target, value) {
            (Value::Table(target), Value::Table(value)) => merge(target, value, &format!("{full}."))?,
            (target @ Value::Float(_), Value::Integer(value)) => *target = Value::Float(value as f64),
            (target, value) if target.same_type(&value) => *target = value,
            (target, value) => {
                bail!("`{full}` must be {}, not `{value}`", in_words(target))
            }
        }
    }
    Ok(())
}

/// The keys in which two configurations differ, each as `key: old -> new`.
///
/// # Errors
/// When one cannot be written as TOML.
pub fn differences(old: &Config, new: &Config) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    compare(&Table::try_from(old)?, &Table::try_from(new)?, "", &mut lines);
    Ok(lines)
}

/// All keys with their values, as `--set` would take them.
///
/// # Errors
/// When the config cannot be written as TOML.
pub fn flat(config: &Config) -> Result<BTreeMap<String, String>> {
    fn add(table: &Table, prefix: &str, all: &mut BTreeMap<String, String>) {
        for (key, value) in table {
            match value {
                Value::Table(inner) => add(inner, &format!("{prefix}{key}."), all),
                value => {
                    all.insert(format!("{prefix}{key}"), value.to_string());
                }
            }
        }
    }
    let mut all = BTreeMap::new();
    add(&Table::try_from(config)?, "", &mut all);
    Ok(all)
}

fn compare(old: &Table, new: &Table, prefix: &str, lines: &mut Vec<String>) {
    for (key, before) in old {
        match (before, new.get(key)) {
            (Value::Table(before), Some(Value::Table(after))) => {
                compare(before, after, &format!("{prefix}{key}."), lines)
            }
            (before, Some(after)) if before == after => {}
            (before, Some(after)) => lines.push(format!("{prefix}{key}: {before} -> {after}")),
            (before, None) => lines.push(format!("{prefix}{key}: {before} -> nothing")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(overrides: &[&str]) -> Result<Config> {
        load(&Source {
            overrides: overrides.iter().map(|text| (*text).to_owned()).collect(),
            ..Source::default()
        })
    }

    #[test]
    fn every_shipped_config_parses_and_its_model_fits_together() {
        for (name, _) in SHIPPED {
            let config = load(&Source { config: Some((*name).to_owned()), ..Source::default() }).unwrap();
            assert_eq!(config.name, *name);
        }
    }

    /// Numbers of parameters as the models were published.
    #[test]
    fn encoders_have_the_published_numbers_of_parameters() {
        for (name, expected) in [
            ("dinov2-small", 22_056_576),
            ("dinov2-base", 86_580_480),
            ("dinov3-small", 21_596_544),
            ("dinov3-small-plus", 28_692_864),
            ("dinov3-base", 85_660_416),
        ] {
            let config =
                load(&Source { config: Some(format!("refcoco/{name}")), ..Source::default() }).unwrap();
            let store = torch_ext::Store::new(tch::Device::Cpu, tch::Kind::Half);
            let image = &config.model.image;
            image.encoder.build(&store.root(), &image.sizes(), &mut |_, _| {});
            let n: usize = store.entries().iter().map(|(_, entry)| entry.tensor.numel()).sum();
            assert_eq!(n, expected, "{name}");
        }
    }

    #[test]
    fn what_follows_from_other_settings() {
        let config =
            with(&["model.image.depth=12", "model.text.depth=24", "model.text.adapter_blocks=[3]"]).unwrap();
        assert_eq!(
            (config.model.image.taps, config.model.image.adapter_blocks),
            ([4, 8], vec![1, 3, 5, 7, 9, 11])
        );
        assert_eq!(config.model.text.adapter_blocks, [3]);
        let config = with(&["model.image.depth=24"]).unwrap();
        assert_eq!(
            (config.model.image.taps, config.model.image.adapter_blocks),
            ([8, 16], vec![2, 6, 10, 14, 18, 22])
        );
        for depth in 2..50 {
            with(&[&format!("model.image.depth={depth}")]).unwrap();
        }
        let siglip = ["model.text.encoder=siglip", "model.text.context=64"];
        assert_eq!(with(&siglip).unwrap().model.word_len, 64);
        assert!(with(&[&siglip[..], &["model.word_len=17"]].concat()).is_err());
        // What a variant may hold is not in the preset.
        let gated = with(&["model.image.variant.gated_mlp=true"]).unwrap();
        assert_eq!(gated.model.image.variant.gated_mlp, Some(true));
        assert!(with(&["model.image.variant.gated=true"]).is_err());
    }

    #[test]
    fn overrides_reach_every_level_and_keep_types() {
        let config =
            with(&["seed=7", "train.lr=1", "model.image.adapter_blocks=[0, 2]", "loss.cpcl=0"]).unwrap();
        assert_eq!((config.seed, config.train.lr, config.loss.get("cpcl")), (7, 1.0, 0.0));
        assert_eq!(config.model.image.adapter_blocks, [0, 2]);
        assert_eq!(
            with(&["model.head.fusion=multiply"]).unwrap().model.head.fusion,
            talent::NeckFusion::Multiply
        );
    }

    #[test]
    fn mistakes_are_named_with_the_nearest_key() {
        let error = |text: &str| format!("{:#}", with(&[text]).unwrap_err());
        assert!(error("train.batchsize=8").contains("nearest is `train.batch_size`"));
        assert!(error("modle.word_len=8").contains("nearest is `model`"));
        assert!(error("train.epochs=many").contains("`train.epochs` must be a whole number"));
        assert!(error("model.head.fusion=rca").contains("rca"));
        assert!(error("model.input_size=100").contains("input_size"));
        let unknown = error("model.image.encoder=bert");
        assert!(unknown.contains("`bert`; there are dinov2-reg") && !unknown.contains('\n'), "{unknown}");
        assert!(error("seed").contains("key=value"));
        let unknown =
            load(&Source { config: Some("refcocog-u/base".into()), ..Source::default() }).unwrap_err();
        assert!(unknown.to_string().contains("nearest is `refcocog_u/base`"));
    }

    #[test]
    fn a_data_set_brings_its_word_length() {
        let config = load(&Source { dataset: Some("refcocog_u".into()), ..Source::default() }).unwrap();
        assert_eq!(
            (config.model.word_len, config.data.datasets.as_slice()),
            (22, &["refcocog_u".to_owned()][..])
        );
        let trained =
            Source { base: Some(Config::tiny()), dataset: Some("refcocog_u".into()), ..Source::default() };
        let trained = load(&trained).unwrap();
        assert_eq!((trained.model.word_len, trained.data.datasets.len()), (17, 1));
    }

    #[test]
    fn differences_name_keys() {
        let lines = differences(&Config::base(), &Config { seed: 3, ..Config::base() }).unwrap();
        assert_eq!(lines, ["seed: 0 -> 3"]);
    }
}
