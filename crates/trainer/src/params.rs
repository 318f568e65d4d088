//! Parameter counts by group.

use anyhow::Result;
use cli_kit::outln;
use serde_json::json;
use talent::{ParameterGroup, Talent, parameter_group};
use tch::{Device, Kind};
use torch_ext::Role;

use crate::config::Config;
use crate::memory_limit::ensure_fits;

pub(crate) fn params(cfg: &Config, as_json: bool) -> Result<()> {
    ensure_fits(&cfg.model, 0)?;
    // Half precision: only the shapes matter, and a large model fits into little memory.
    let model = Talent::new(&cfg.model, Device::Cpu, Kind::Half)?;
    model.train_only(cfg.train.regime.into());
    let entries = model.store().entries();
    let count = |wanted: &dyn Fn(&str, bool) -> bool| -> usize {
        let parameters = entries.iter().filter(|(_, entry)| entry.role == Role::Parameter);
        parameters
            .filter(|(name, entry)| wanted(name, entry.tensor.requires_grad()))
            .map(|(_, entry)| entry.tensor.numel())
            .sum()
    };
    let group = |group: ParameterGroup| count(&|name: &str, _| parameter_group(name) == group);
    let (visual, text) = (group(ParameterGroup::VisualAdapters), group(ParameterGroup::TextAdapters));
    let (neck, decoder) = (group(ParameterGroup::Neck), group(ParameterGroup::Decoder));
    let projector = group(ParameterGroup::Projector);
    let rows = [
        ("adapters", visual + text),
        ("visual_adapters", visual),
        ("text_adapters", text),
        ("head", neck + decoder + projector),
        ("neck", neck),
        ("decoder", decoder),
        ("projector", projector),
        ("gates", group(ParameterGroup::Gates)),
        ("image_encoder", group(ParameterGroup::ImageEncoder)),
        ("text_encoder", group(ParameterGroup::TextEncoder)),
        ("trainable", count(&|_, trains| trains)),
        ("frozen", count(&|_, trains| !trains)),
        ("total", count(&|_, _| true)),
    ];
    if as_json {
        let mut report = json!({"config": cfg.name, "word_len": cfg.model.word_len});
        for (name, n) in rows {
            report[name] = json!(n);
        }
        outln!("{report:#}");
        return Ok(());
    }
    outln!("{}, word_len {}", cfg.name, cfg.model.word_len);
    for (name, n) in rows {
        outln!("{:16}{:>14}", name.replace('_', " "), grouped(n));
    }
    Ok(())
}

/// Digits in groups of three.
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let first = digits.len() % 3;
    let (head, tail) = digits.split_at(first);
    let groups = tail.as_bytes().chunks(3).map(String::from_utf8_lossy);
    let parts: Vec<_> = (!head.is_empty()).then(|| head.into()).into_iter().chain(groups).collect();
    parts.join(",")
}

#[cfg(test)]
mod tests {
    #[test]
    fn digits_are_grouped() {
        assert_eq!([0, 12, 1234, 123_456_789].map(super::grouped), ["0", "12", "1,234", "123,456,789"]);
    }
}
