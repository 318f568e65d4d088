//! Weights and inputs given by an integer formula (`full/README.md`), so that full-size models need no files.

use anyhow::{Context, Result, ensure};
use rayon::prelude::*;
use serde_json::Value;
use talent::{ModelConfig, Talent};
use tch::{Device, Kind, Tensor};

/// Generator of weights and inputs, with its rule table.
#[derive(Debug)]
pub(crate) struct Formula {
    seed: u64,
    json: Value,
    rules: Vec<Rule>,
    /// Device of the networks and inputs.
    pub(crate) device: Device,
}

#[derive(Debug)]
struct Rule {
    matching: Match,
    pattern: String,
    /// Whether the rule applies to vectors only.
    vectors: bool,
    offset: f64,
    scale: Scale,
}

#[derive(Debug, Clone, Copy)]
enum Match {
    Equals,
    StartsWith,
    EndsWith,
    Contains,
    Any,
}

#[derive(Debug, Clone, Copy)]
enum Scale {
    Fixed(f64),
    Gain(f64),
}

/// Start of a tensor's sequence: FNV-1a hash of the name, XOR the seed.
fn start(name: &str, seed: u64) -> u64 {
    let hash = name.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    });
    hash ^ seed
}

/// The `index`th 64-bit number of a sequence (SplitMix64).
fn number(start: u64, index: u64) -> u64 {
    let z = start.wrapping_add((index + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn value(z: u64, offset: f64, scale: f64) -> f32 {
    let t = ((z >> 40) as f64 - 8_388_608.0) / 8_388_608.0;
    (offset + scale * t) as f32
}

fn hex(value: &Value) -> Option<u64> {
    u64::from_str_radix(value.as_str()?.trim_start_matches("0x"), 16).ok()
}

impl Formula {
    pub(crate) fn new(json: Value, device: Device) -> Result<Self> {
        let seed = json.get("seed").and_then(hex).context("formula.json has no seed")?;
        let rules = json.get("rules").and_then(Value::as_array).context("formula.json has no rules")?;
        let rules = rules.iter().map(|rule| parse_rule(rule).with_context(|| format!("rule {rule}")));
        let rules = rules.collect::<Result<_>>()?;
        Ok(Self { seed, json, rules, device })
    }

    /// Checks the worked examples.
    pub(crate) fn check_examples(&self) -> Result<usize> {
        let examples = self.json.get("examples").and_then(Value::as_array).context("no examples")?;
        for example in examples {
            let field = |key: &str| example.get(key).with_context(|| format!("an example lacks `{key}`"));
            let name = field("name")?.as_str().context("name")?;
            let index = field("index")?.as_u64().context("index")?;
            let z = number(start(name, self.seed), index);
            ensure!(Some(z) == hex(field("z")?), "example `{name}`: z is {z:#X}");
            let (offset, scale) = (field("offset")?.as_f64(), field("scale")?.as_f64());
            let found = value(z, offset.context("offset")?, scale.context("scale")?);
            ensure!(
                Some(u64::from(found.to_bits())) == hex(field("bits")?),
                "example `{name}`: the value is {found}"
            );
        }
        let token = self.json.get("token_example").context("no token example")?;
        let id =
            self.token(token["name"].as_str().context("name")?, token["index"].as_u64().context("index")?);
        ensure!(Some(id) == token["id"].as_i64(), "the token example gives {id}");
        Ok(examples.len() + 1)
    }

    fn token(&self, name: &str, index: u64) -> i64 {
        1 + (number(start(name, self.seed), index) % 49_405) as i64
    }

    fn values(&self, name: &str, n: usize, offset: f64, scale: f64) -> Vec<f32> {
        let start = start(name, self.seed);
        (0..n as u64).into_par_iter().map(|index| value(number(start, index), offset, scale)).collect()
    }

    fn offset_and_scale(&self, name: &str, shape: &[i64]) -> Result<(f64, f64)> {
        let rule = self.rules.iter().find(|rule| rule.applies(name, shape));
        let rule = rule.with_context(|| format!("no rule for `{name}`"))?;
        let scale = match rule.scale {
            Scale::Fixed(scale) => scale,
            Scale::Gain(gain) => {
                let first = name.ends_with("text_projection") || name == "neck.f5_proj.0.weight";
                let fan_in = if first { shape[0] } else { shape[1..].iter().product() };
                gain * (3.0 / fan_in as f64).sqrt()
            }
        };
        Ok((rule.offset, scale))
    }

    /// A full-size network. Also returns the number of listed tensors; the checksums of the floating-point ones are verified.
    pub(crate) fn network(&self, config: &str, word_len: i64) -> Result<(Talent, usize)> {
        let mut cfg = match config {
            "base" => ModelConfig::base(),
            "large" => ModelConfig::large(),
            other => anyhow::bail!("no model is called `{other}`"),
        };
        cfg.word_len = word_len;
        cfg.decoder.dropout = 0.0;
        let network = Talent::new(&cfg, self.device, Kind::Float)?;
        let listed = self.json.pointer(&format!("/tensors/{config}")).and_then(Value::as_object);
        let listed = listed.with_context(|| format!("formula.json lists no tensors of {config}"))?;
        let entries = network.store().entries();
        ensure!(entries.len() == listed.len(), "{} tensors, {} listed", entries.len(), listed.len());
        for (name, entry) in entries {
            if entry.tensor.kind() == Kind::Int64 {
                continue;
            }
            let facts = listed.get(&name).with_context(|| format!("formula.json does not list `{name}`"))?;
            let shape = entry.tensor.size();
            let (offset, scale) = self.offset_and_scale(&name, &shape)?;
            let values = self.values(&name, entry.tensor.numel(), offset, scale);
            let sum = values.iter().fold(0_u64, |sum, value| sum.wrapping_add(u64::from(value.to_bits())));
            ensure!(facts.get("bits_sum").and_then(hex) == Some(sum), "`{name}`: bits_sum is {sum:#X}");
            tch::no_grad(|| {
                entry.tensor.shallow_clone().copy_(&Tensor::from_slice(&values).view(shape.as_slice()))
            });
        }
        Ok((network, listed.len()))
    }

    /// The first `n` images, `[n, 3, S, S]`.
    pub(crate) fn images(&self, n: i64) -> Result<Tensor> {
        let facts = self.json.pointer("/inputs/img").context("no inputs.img")?;
        let side = facts.pointer("/shape/3").and_then(Value::as_i64).context("no image size")?;
        let number = |key: &str| facts.get(key).and_then(Value::as_f64).with_context(|| format!("no {key}"));
        let count = (n * 3 * side * side) as usize;
        let values = self.values("img", count, number("offset")?, number("scale")?);
        Ok(Tensor::from_slice(&values).view([n, 3, side, side]).to_device(self.device))
    }

    /// The first `n` sentences called `name`, int64 `[n, K]`.
    pub(crate) fn sentences(&self, name: &str, n: usize, word_len: i64) -> Result<Tensor> {
        let facts = self.json.pointer("/inputs/tokens").context("no inputs.tokens")?;
        let lengths =
            facts.get(name).and_then(Value::as_array).with_context(|| format!("no lengths of {name}"))?;
        let id =
            |key: &str| facts.get(key).and_then(Value::as_i64).with_context(|| format!("no {key} token"));
        let (first, last) = (id("start")?, id("end")?);
        let mut ids = Vec::new();
        for (sentence, length) in lengths.iter().take(n).enumerate() {
            let length = length.as_i64().context("a length")?;
            ids.extend((0..word_len).map(|position| match position {
                _ if position >= length => 0,
                0 => first,
                _ if position == length - 1 => last,
                _ => self.token(name, (sentence as i64 * word_len + position) as u64),
            }));
        }
        Ok(Tensor::from_slice(&ids).view([-1, word_len]).to_device(self.device))
    }

    /// Masks of all images, `[n, 1, S, S]`: discs with fractional borders.
    pub(crate) fn masks(&self) -> Result<Tensor> {
        let facts = self.json.pointer("/inputs/mask").context("no inputs.mask")?;
        let side = facts.get("size").and_then(Value::as_i64).context("no mask size")?;
        let discs = facts.get("discs").and_then(Value::as_array).context("no discs")?;
        let mut values = Vec::new();
        for disc in discs {
            let number =
                |index: usize| disc.get(index).and_then(Value::as_i64).context("a disc has three numbers");
            let (cx, cy, r2) = (number(0)?, number(1)?, number(2)?);
            for y in 0..side {
                values.extend((0..side).map(|x| {
                    let inside = r2 - (2 * x - cx).pow(2) - (2 * y - cy).pow(2);
                    inside.clamp(0, 4096) as f32 / 4096.0
                }));
            }
        }
        Ok(Tensor::from_slice(&values).view([-1, 1, side, side]).to_device(self.device))
    }

    /// Whether each sample has a negative, `[n]`.
    pub(crate) fn valid(&self) -> Result<Tensor> {
        let list =
            self.json.pointer("/inputs/tccl_valid").and_then(Value::as_array).context("no tccl_valid")?;
        let values: Vec<f32> = list.iter().filter_map(Value::as_f64).map(|value| value as f32).collect();
        Ok(Tensor::from_slice(&values).to_device(self.device))
    }
}

impl Rule {
    fn applies(&self, name: &str, shape: &[i64]) -> bool {
        let matches = match self.matching {
            Match::Equals => name == self.pattern,
            Match::StartsWith => name.starts_with(&self.pattern),
            Match::EndsWith => name.ends_with(&self.pattern),
            Match::Contains => name.contains(&self.pattern),
            Match::Any => true,
        };
        matches && (!self.vectors || shape.len() == 1)
    }
}

fn parse_rule(rule: &Value) -> Result<Rule> {
    let text = |key: &str| rule.get(key).and_then(Value::as_str).with_context(|| format!("no {key}"));
    let number = |key: &str| rule.get(key).and_then(Value::as_f64);
    let (matching, vectors) = match text("match")? {
        "equals" => (Match::Equals, false),
        "starts_with" => (Match::StartsWith, false),
        "ends_with" => (Match::EndsWith, false),
        "contains" => (Match::Contains, false),
        "any" => (Match::Any, false),
        "rank_1" => (Match::Any, true),
        "rank_1_and_ends_with" => (Match::EndsWith, true),
        other => anyhow::bail!("unknown match `{other}`"),
    };
    let scale = match (number("scale"), number("gain")) {
        (Some(scale), None) => Scale::Fixed(scale),
        (None, Some(gain)) => Scale::Gain(gain),
        _ => anyhow::bail!("neither scale nor gain"),
    };
    let offset = number("offset").context("no offset")?;
    Ok(Rule { matching, pattern: text("pattern")?.to_owned(), vectors, offset, scale })
}
