//! `adapter_config.json`, in which the `peft` library keeps what LoRA matrices belong to.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::Error;
use crate::settings::is_on;

/// Name of the file in an adapter's folder.
pub const CONFIG_FILE: &str = "adapter_config.json";

/// Names of the file with the matrices in an adapter's folder, the usual one first.
pub const WEIGHT_FILES: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];

/// What an `adapter_config.json` says of LoRA.
#[derive(Debug, Clone, PartialEq)]
pub struct PeftConfig {
    /// Rank r of the updates.
    pub rank: i64,
    /// Alpha, which scales the updates.
    pub alpha: f64,
    /// Whether the scale is `alpha / sqrt(r)` (rank-stabilised) in place of `alpha / r`.
    pub rslora: bool,
    /// Probability with which training zeroes an entry of a layer's input.
    pub dropout: f64,
    /// Which modules have an update.
    pub targets: Targets,
    /// Class of the network that the adapter belongs to, where the library writes it (`auto_mapping`).
    pub base_class: Option<String>,
}

/// A test for module paths.
pub type Matcher = Box<dyn Fn(&str) -> bool>;

/// Which modules have an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Targets {
    /// Those with one of these names, or whose path ends with one.
    Named(Vec<String>),
    /// Those whose whole path matches a regular expression.
    Matching(String),
    /// All linear layers.
    AllLinear,
}

/// Settings without an effect on what a trained adapter computes.
const WITHOUT_EFFECT: [&str; 8] = [
    "base_model_name_or_path",
    "inference_mode",
    "megatron_core",
    "peft_version",
    // Counts with use_qalora alone.
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
];

/// Settings that are read here.
const READ: [&str; 9] = [
    "auto_mapping",
    "bias",
    "init_lora_weights",
    "lora_alpha",
    "lora_dropout",
    "peft_type",
    "r",
    "target_modules",
    "use_rslora",
];

impl PeftConfig {
    /// Reads the file in a folder.
    ///
    /// # Errors
    /// When it is missing or no JSON, or as [`PeftConfig::parse`].
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(CONFIG_FILE);
        let text = std::fs::read(&path).map_err(|source| Error::io(&path, source))?;
        let value = serde_json::from_slice(file_kind::without_mark(&text));
        let value: Value = value.map_err(|error| Error::malformed(&path, format!("no JSON: {error}")))?;
        Self::parse(&value).map_err(|what| Error::malformed(&path, what))
    }

    /// # Errors
    /// When it is no LoRA, lacks a setting, or switches something on that is not known here; the message names the setting.
    pub fn parse(config: &Value) -> Result<Self, String> {
        let fields = config.as_object().ok_or("it is no JSON object")?;
        let known = |key: &str| WITHOUT_EFFECT.contains(&key) || READ.contains(&key);
        // Block 0 alone is a choice of blocks, too.
        let chooses = |key: &str, value: &Value| key == "layers_to_transform" && value.is_number();
        let unknown = |key: &str, value: &Value| !known(key) && (is_on(value) || chooses(key, value));
        if let Some((key, value)) = fields.iter().find(|(key, value)| unknown(key, value)) {
            return Err(format!(
                "{key} is {value}, which is not known here: it may be another kind of adapter"
            ));
        }
        let get = |key: &str| fields.get(key).filter(|value| !value.is_null());
        let wrong = |key: &str, expected: &str| {
            let found = get(key).map_or_else(|| "missing".to_owned(), Value::to_string);
            format!("{key} is {found}, expected {expected}")
        };
        if get("peft_type").is_some_and(|kind| kind != "LORA") {
            return Err(wrong("peft_type", "\"LORA\""));
        }
        if get("bias").is_some_and(|bias| bias != "none") {
            return Err(wrong("bias", "\"none\""));
        }
        // The others change the weights of the network that the adapter belongs to.
        if get("init_lora_weights").is_some_and(|init| !init.is_boolean() && init != "gaussian") {
            return Err(wrong("init_lora_weights", "true, false or \"gaussian\""));
        }
        let rank = get("r").and_then(Value::as_i64).filter(|rank| (1..=100_000).contains(rank));
        let alpha = get("lora_alpha").and_then(Value::as_f64).filter(|alpha| alpha.is_finite());
        let dropout = match get("lora_dropout") {
            None => Some(0.0),
            Some(value) => value.as_f64().filter(|share| (0.0..1.0).contains(share)),
        };
        let rslora = get("use_rslora").map_or(Some(false), Value::as_bool);
        Ok(Self {
            rank: rank.ok_or_else(|| wrong("r", "a whole number from 1 on"))?,
            alpha: alpha.ok_or_else(|| wrong("lora_alpha", "a number"))?,
            rslora: rslora.ok_or_else(|| wrong("use_rslora", "true or false"))?,
            dropout: dropout.ok_or_else(|| wrong("lora_dropout", "a number from 0 on and below 1"))?,
            targets: targets(get("target_modules"))
                .ok_or_else(|| wrong("target_modules", "a list of names, or a text"))?,
            base_class: get("auto_mapping")
                .and_then(|mapping| mapping.get("base_model_class")?.as_str().map(str::to_owned)),
        })
    }

    /// Factor of the updates.
    pub fn scale(&self) -> f64 {
        lora_scale(self.rank, self.alpha, self.rslora)
    }

    /// The file's contents, as the library reads them.
    pub fn to_json(&self) -> Value {
        let targets = match &self.targets {
            Targets::Named(names) => json!(names),
            Targets::Matching(pattern) => json!(pattern),
            Targets::AllLinear => json!("all-linear"),
        };
        let fields = [
            ("base_model_name_or_path", Value::Null),
            ("bias", json!("none")),
            ("fan_in_fan_out", json!(false)),
            ("inference_mode", json!(true)),
            ("init_lora_weights", json!(true)),
            ("lora_alpha", whole(self.alpha)),
            ("lora_dropout", json!(self.dropout)),
            ("modules_to_save", Value::Null),
            ("peft_type", json!("LORA")),
            ("r", json!(self.rank)),
            ("target_modules", targets),
            ("task_type", Value::Null),
            ("use_dora", json!(false)),
            ("use_rslora", json!(self.rslora)),
        ];
        Value::Object(fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<Map<_, _>>())
    }
}

/// Factor of LoRA's updates: `alpha / r`, or `alpha / sqrt(r)` (rank-stabilised).
pub fn lora_scale(rank: i64, alpha: f64, rslora: bool) -> f64 {
    let rank = rank as f64;
    alpha / if rslora { rank.sqrt() } else { rank }
}

/// A number, without a fraction where it has none.
fn whole(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < 1e15 { json!(number as i64) } else { json!(number) }
}

fn targets(value: Option<&Value>) -> Option<Targets> {
    match value? {
        Value::String(text) if text == "all-linear" => Some(Targets::AllLinear),
        Value::String(pattern) => Some(Targets::Matching(pattern.clone())),
        Value::Array(names) if !names.is_empty() => {
            let names = names.iter().map(|name| name.as_str().map(str::to_owned));
            names.collect::<Option<_>>().map(Targets::Named)
        }
        _ => None,
    }
}

impl Targets {
    /// The test for module paths, such as `encoder.layer.0.attention.q_proj`.
    ///
    /// # Errors
    /// When the regular expression cannot be read.
    pub fn matcher(&self) -> Result<Matcher, String> {
        Ok(match self.clone() {
            Self::AllLinear => Box::new(|_| true),
            Self::Named(names) => Box::new(move |path| names.iter().any(|name| ends_with(path, name))),
            Self::Matching(pattern) => {
                let wrong = |error: fancy_regex::Error| {
                    let shown: String = pattern.chars().take(200).collect();
                    format!("target_modules is \"{shown}\", which is no regular expression: {error}")
                };
                // By itself first: `a)|(b` is none, but would be one in parentheses.
                fancy_regex::Regex::new(&pattern).map_err(wrong)?;
                let whole = fancy_regex::Regex::new(&format!("^(?:{pattern})$")).map_err(wrong)?;
                Box::new(move |path| whole.is_match(path).unwrap_or(false))
            }
        })
    }
}

/// Whether a module's path is a name, or ends with it.
fn ends_with(path: &str, name: &str) -> bool {
    path.strip_suffix(name).is_some_and(|front| front.is_empty() || front.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(edit: &[(&str, Value)]) -> Value {
        let mut config = PeftConfig {
            rank: 4,
            alpha: 8.0,
            rslora: false,
            dropout: 0.0,
            targets: Targets::Named(vec!["q_proj".into()]),
            base_class: None,
        }
        .to_json();
        for (key, value) in edit {
            config[key] = value.clone();
        }
        config
    }

    #[test]
    fn what_is_written_is_read() {
        let all = [
            Targets::Named(vec!["q_proj".into(), "mlp.fc1".into()]),
            Targets::Matching(".*q".into()),
            Targets::AllLinear,
        ];
        for (targets, alpha) in all.into_iter().zip([8.0, 0.5, -3.0]) {
            let base_class = None;
            let config = PeftConfig { rank: 3, alpha, rslora: true, dropout: 0.1, targets, base_class };
            assert_eq!(PeftConfig::parse(&config.to_json()).unwrap(), config);
        }
        let read = PeftConfig::parse(&config(&[])).unwrap();
        assert_eq!(read.scale(), 2.0);
        assert_eq!(PeftConfig { rslora: true, ..read }.scale(), 4.0);
    }

    #[test]
    fn what_is_switched_on_and_not_known_is_refused_by_name() {
        for (key, value) in [
            ("use_dora", json!(true)),
            ("rank_pattern", json!({"q_proj": 2})),
            ("alpha_pattern", json!({"q_proj": 2})),
            ("layers_to_transform", json!([0])),
            ("layers_to_transform", json!(0)),
            ("modules_to_save", json!(["head"])),
            ("fan_in_fan_out", json!(true)),
            ("lora_bias", json!(true)),
            ("bias", json!("all")),
            ("init_lora_weights", json!("pissa")),
            ("peft_type", json!("IA3")),
            ("exclude_modules", json!("k_proj")),
            ("r", json!(0)),
            ("r", json!(2.5)),
            ("lora_alpha", Value::Null),
            ("lora_dropout", json!(1.0)),
            ("target_modules", json!([])),
            ("target_modules", json!([1])),
            ("use_rslora", json!("yes")),
            ("a_new_setting", json!(1)),
        ] {
            let error = PeftConfig::parse(&config(&[(key, value.clone())])).unwrap_err();
            assert!(error.starts_with(&format!("{key} is ")), "{key}: {error}");
        }
        for (key, value) in
            [("use_dora", json!(false)), ("a_new_setting", json!({})), ("peft_version", json!("1"))]
        {
            assert!(PeftConfig::parse(&config(&[(key, value)])).is_ok(), "{key}");
        }
    }

    #[test]
    fn modules_are_matched_as_the_library_does() {
        let matches = |targets: Targets, path: &str| targets.matcher().unwrap()(path);
        let named = || Targets::Named(vec!["q_proj".into(), "mlp.fc1".into()]);
        assert!(
            matches(named(), "a.0.q_proj") && matches(named(), "a.mlp.fc1") && matches(named(), "q_proj")
        );
        assert!(!matches(named(), "a.xq_proj") && !matches(named(), "a.fc1"));
        let pattern = || Targets::Matching(r".*\.(0|1)\.attention\.(q|v)_proj".into());
        assert!(matches(pattern(), "layer.0.attention.q_proj"));
        assert!(
            !matches(pattern(), "layer.0.attention.q_proj.more")
                && !matches(pattern(), "layer.2.attention.q_proj")
        );
        for pattern in ["(", "a)|(b"] {
            assert!(Targets::Matching(pattern.into()).matcher().is_err(), "{pattern}");
        }
    }
}
